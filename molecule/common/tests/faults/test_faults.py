"""What goes wrong in the middle of a change: the next converge ends in the declared state, and leaves nothing over."""

from __future__ import annotations

from typing import Any

from leftovers import check_that_nothing_is_left
from live import GROWN, HOLDER_OF_THE_LOCK, Live

_SERVES_A_MEBIBYTE = """
table ip cut {{
    quota served {{ over 1 mbytes }}
    chain in {{
        type filter hook input priority 0
        ip saddr {address} tcp sport {port} quota name "served"
    }}
    chain out {{
        type filter hook output priority 0
        ip daddr {address} tcp dport {port} quota name "served" reject with tcp reset
    }}
}}"""
"""Rules of nftables: a registry that is gone after its first MiB, in the middle of an image's layer."""


def _converge_changed(live: Live, **fields: Any) -> dict[str, Any]:
    """Converge with zone api changed."""
    return live.converge(live.declared["web"], {**live.declared["api"], **fields}, data=GROWN)


def _check_that_nothing_is_left(live: Live, before: dict[str, Any]) -> None:
    """Zone web has run all the time, and of each zone there is what one zone has."""
    check_that_nothing_is_left(live.facts("web", "api"), before, live.declared)


def test_a_converge_that_is_killed_when_a_zone_has_ended_is_completed_by_the_next(live: Live, facts: dict[str, Any]) -> None:
    """And what the zone had on its volume is still there."""
    live.in_zone("api", "echo synced > /srv/data/before; sync")
    live.by_itself(f"for try in $(seq 600); do if ! xl domid api; then kill -KILL {HOLDER_OF_THE_LOCK}; exit; fi; sleep 0.2; done")
    killed = _converge_changed(live, environment={"CHANGED": "yes"})
    assert killed["failed"], killed
    completed = _converge_changed(live, environment={"CHANGED": "yes"})
    assert not completed["failed"], completed
    assert live.in_zone("api", 'printf %s "$CHANGED"; cat /srv/data/before') == "yessynced\n"
    assert not _converge_changed(live, environment={"CHANGED": "yes"})["changed"]
    _check_that_nothing_is_left(live, facts)


def test_a_zone_that_comes_changes_and_goes_does_so_whenever_a_converge_is_killed(live: Live) -> None:
    """At three moments; `make test-full` takes all. The other zones are the same ones all the time."""
    extra = {"name": "extra", "image": live.declared["api"]["image"], "virtualization": "pv"}
    changed = {**extra, "image": live.variables["images"]["redis"]}
    absent = {"name": "extra", "state": "absent"}
    others = [live.declared["web"], live.declared["api"]]
    # The tests before have left zone api changed.
    assert not live.converge(*others, data=GROWN)["failed"]
    before = live.facts()
    steps = (
        # It runs, and nobody has seen its container start.
        ("after start extra", extra, "keep"),
        ("after define extra", changed, "start"),
        ("after undefine extra", absent, "keep"),
    )
    results = live.converge_interrupted(*(live.interrupted(moment, *others, zone, data=GROWN) for moment, zone, _action in steps))
    for (moment, zone, action), result in zip(steps, results, strict=True):
        assert (result["reached"], result["completed"]["failures"]) == (True, []), (moment, result)
        assert result["completed"]["actions"] == {"web": "keep", "api": "keep", "extra": action}, moment
        assert (result["again"]["changed"], result["again"]["failures"]) == (False, []), (moment, result)
        zones = live.declared if zone is absent else {**live.declared, "extra": zone}
        check_that_nothing_is_left(result["facts"], before, zones, kept=("web", "api"))


def test_a_libvirtd_that_dies_when_a_zone_has_ended_harms_none(live: Live, facts: dict[str, Any]) -> None:
    changed = {**live.declared["api"], "environment": {"CHANGED": "yes"}}
    dies = ["systemctl", "kill", "--signal=KILL", "libvirtd.service"]
    then = [*live.declared.values()]
    (result,) = live.converge_interrupted(
        live.interrupted("after define api", live.declared["web"], changed, instead=dies, then=then, data=GROWN)
    )
    assert (result["reached"], result["actions"]) == (True, {"api": "restart", "web": "keep"}), result
    assert [failure for failure in result["failures"] if "libvirt" not in failure] == [], result
    assert (result["completed"]["failures"], result["again"]["failures"], result["again"]["changed"]) == ([], [], False), result
    check_that_nothing_is_left(result["facts"], facts, live.declared)


def test_a_console_daemon_that_dies_comes_back_before_a_zone_has_to_wait_for_it(live: Live) -> None:
    live.run("pkill -KILL -x xenconsoled; for try in $(seq 50); do pgrep -x xenconsoled && break; sleep 0.2; done")
    live.in_zone("web", "wget -q -O /dev/null http://127.0.0.1/after-the-daemon || true")
    log = live.run("for try in $(seq 50); do zonectl logs -n 5 web | grep after-the-daemon && break; sleep 0.2; done")
    assert "GET /after-the-daemon" in log


def test_of_two_converges_at_once_one_fails_clearly(live: Live) -> None:
    live.run("setsid --fork flock /var/lib/ringfence/lock sleep 15 >/dev/null 2>&1 </dev/null; sleep 1")
    refused = _converge_changed(live)
    assert "another converge of this host is running (it holds /var/lib/ringfence/lock); run again when it has ended" in refused["msg"]
    live.run("flock /var/lib/ringfence/lock true")


def test_a_zone_that_ignores_its_stop_signal_is_ended(live: Live, facts: dict[str, Any]) -> None:
    deaf = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
    changed = _converge_changed(live, command=deaf, stop_grace_period="1s")
    assert not changed["failed"], changed
    back = _converge_changed(live)
    assert not back["failed"], back
    _check_that_nothing_is_left(live, facts)


def test_a_zone_whose_kernel_panics_again_and_again_starts_each_time_and_counts(live: Live, facts: dict[str, Any]) -> None:
    """The wait before the container grows, as it does for a container that ends again and again."""
    assert _counts(live) == (0, 0)
    told = "zonectl logs -n 400 {} api | grep -c 'Kernel panic - not syncing: sysrq triggered crash' || true"
    for panics in (1, 2):
        _panic(live)
        assert live.run(f"{told.format('--kernel')}; {told.format('--container')}").split() == [str(panics), "0"]
        # Docker's back-off: 2 s after the first, 4 s after the second.
        live.run(f"for try in $(seq 300); do zonectl inspect api | grep -q '\"restarts\": {panics}' && exit; sleep 0.2; done; exit 1")
    assert _counts(live) == (2, 2)
    assert not _converge_changed(live)["changed"]
    _check_that_nothing_is_left(live, facts)


def test_a_container_that_was_killed_for_lack_of_memory_is_told_apart(live: Live) -> None:
    """Its last words look like the kernel's. To wait until memory is short can take Linux minutes, so it is told that it is."""
    last = "echo '[    0.000001] Kernel panic - not syncing: of the container'; exec dd if=/dev/zero of=/dev/null bs=40M"
    job = {"name": "job", "image": live.variables["images"]["nginx"], "virtualization": "pv", "command": ["sh", "-c", last]}
    done = live.module("zones", {"zones": [job]})
    assert not done["failed"], done
    live.in_zone("job", "until grep -q 'VmRSS:.*[0-9]\\{5\\} kB' /proc/1/status; do sleep 0.2; done")
    live.run(f"timeout 60 {live.into('job')} 'echo f > /proc/sysrq-trigger' </dev/null")
    _await_end_of_job(live, 300)
    (found,) = [zone for zone in live.module("zone_info", {})["zones"] if zone["name"] == "job"]
    assert (found["state"], found["exit_status"], found["crashes"]) == ("exited", 137, 0)
    assert found["oom_kills"] > 0
    told = "zonectl logs {} job | grep -c 'Kernel panic' || true"
    assert live.run(f"{told.format('--kernel')}; {told.format('--container')}").split() == ["0", "1"]
    removed = live.module("zones", {"zones": [{"name": "job", "state": "absent"}]})
    assert not removed["failed"], removed


def _await_end_of_job(live: Live, tries: int) -> None:
    live.run(f"for try in $(seq {tries}); do xl domid job 2>/dev/null || exit 0; sleep 0.2; done; exit 1")


def _counts(live: Live) -> tuple[int, int]:
    """How often zone api's container was started again, and how often that was because its kernel had died."""
    (api,) = [zone for zone in live.module("zone_info", {})["zones"] if zone["name"] == "api"]
    return api["restarts"], api["crashes"]


def _panic(live: Live) -> None:
    """Let the kernel of zone api panic, and wait until Xen has started the zone again."""
    before = live.run("xl domid api").strip()
    live.run(f"timeout 60 {live.into('api')} 'echo c > /proc/sysrq-trigger' </dev/null || true")
    live.run(f'for try in $(seq 300); do [ "$(xl domid api 2>/dev/null || echo {before})" = {before} ] || exit 0; sleep 0.2; done; exit 1')


def test_a_registry_that_goes_and_a_disk_that_fills_half_way_leave_nothing(live: Live, facts: dict[str, Any]) -> None:
    """And once both are as they should be, the same declaration comes to run."""
    address, port = str(live.variables["registry"]).split(":")
    extra = {"name": "extra", "image": live.variables["images"]["redis"], "virtualization": "pv"}

    def converge() -> dict[str, Any]:
        return live.converge(live.declared["web"], live.declared["api"], extra, data=GROWN)

    live.run(f"nft -f - <<'RULES'\n{_SERVES_A_MEBIBYTE.format(address=address, port=port)}\nRULES")
    try:
        gone = converge()
    finally:
        live.run("nft delete table ip cut")
    assert (gone["failed"], gone["changed"]) == (True, False), gone
    assert "zone extra: create: image" in gone["msg"]
    _check_that_nothing_is_left(live, facts)

    # There is room for the layers of the image, and not for its file system.
    live.run("fallocate --length $(($(stat --file-system --format '%a * %S' /var/lib/ringfence) - (40 << 20))) /var/lib/filler")
    try:
        full = converge()
    finally:
        live.run("rm /var/lib/filler")
    assert (full["failed"], full["changed"]) == (True, False), full
    assert "make room" in full["msg"] or "No space left on device" in full["msg"], full
    _check_that_nothing_is_left(live, facts)

    done = converge()
    assert (done["failed"], [zone["action"] for zone in done["zones"]]) == (False, ["keep", "create", "keep"]), done
    removed = live.converge(live.declared["web"], live.declared["api"], {"name": "extra", "state": "absent"}, data=GROWN)
    assert not removed["failed"], removed
    _check_that_nothing_is_left(live, facts)


def test_a_clock_that_jumps_changes_nothing(live: Live) -> None:
    live.run("date --set='+1 day' >/dev/null")
    try:
        unchanged = _converge_changed(live)
    finally:
        live.run("date --set='-1 day' >/dev/null")
    assert (unchanged["failed"], unchanged["changed"]) == (False, False), unchanged


def test_no_zone_starts_without_its_rules(live: Live, facts: dict[str, Any]) -> None:
    refused = live.host.run("nft delete table inet ringfence; zonectl restart api")
    assert (refused.rc, "the nftables table inet ringfence is not loaded" in refused.stderr) == (1, True), refused
    completed = _converge_changed(live)
    assert (completed["failed"], [zone["action"] for zone in completed["zones"]]) == (False, ["start", "keep"]), completed
    _check_that_nothing_is_left(live, facts)


def test_the_rules_survive_the_firewall(live: Live) -> None:
    """Debian's unit flushes all tables each time."""
    before, *after = live.run(
        "tables() { nft list table inet ringfence | sha256sum; nft list table arp ringfence | sha256sum; }\n"
        "tables; for verb in start reload restart stop; do systemctl $verb nftables; echo ---; tables; done"
    ).split("---\n")
    assert after == [before] * 4
    assert live.page_from_outside() == "page of web"


def test_the_last_words_of_a_container_are_logged(live: Live) -> None:
    """It prints more than the console passes on in a second, and ends at once."""
    words = "seq 9000; echo last words; exit 3"
    job = {"name": "job", "image": live.variables["images"]["nginx"], "virtualization": "pv", "command": ["sh", "-c", words]}
    done = live.module("zones", {"zones": [job]})
    assert not done["failed"], done
    _await_end_of_job(live, 150)
    assert "8999 9000 last words" in " ".join(live.run("cat /var/log/xen/console/guest-job.log").split())
    removed = live.module("zones", {"zones": [{"name": "job", "state": "absent"}]})
    assert not removed["failed"], removed
