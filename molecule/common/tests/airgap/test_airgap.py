"""A host that has never reached anything runs a zone, from a bundle."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

from live import Live

_REJECT = json.dumps({"default": [{"type": "reject"}]})


def test_the_host_reaches_nothing(live: Live) -> None:
    """Neither the registry on the machine that it runs on, which answers there, nor a name."""
    address = live.variables["registry_on_this_machine"]
    with urllib.request.urlopen(f"http://{address}/v2/", timeout=30) as answer:
        assert answer.status == 200
    port = address.rpartition(":")[2]
    live.run(f"! timeout 20 bash -c '</dev/tcp/10.0.2.2/{port}'; ! getent hosts deb.debian.org; ! getent hosts registry.example")


def test_it_converges_and_stays_as_it_is(live: Live, show: Callable[[str], None]) -> None:
    first, second, check = live.converges()
    assert (first["failed"], second["failed"], check["failed"]) == (0, 0, 0)
    assert (second["changed"], check["changed"]) == (0, 0)
    assert second["tasks"] <= 15
    show(f"converged in {first['seconds']:.0f} s; without a change {second['tasks']} tasks in {second['seconds']:.0f} s")


def test_the_zone_runs_and_serves_its_page(live: Live, facts: dict[str, Any]) -> None:
    assert facts["pages"]["8080"] == "page of web"
    assert live.page_from_outside() == "page of web"


def test_the_bundle_is_the_only_source_of_packages_and_those_of_the_host_are_as_before(live: Live) -> None:
    from_bundle, own = (
        live.run(f"{setting} apt-cache policy skopeo") for setting in ("APT_CONFIG=/var/lib/ringfence/bundle/current/apt/apt.conf", "")
    )
    assert "file:/var/lib/ringfence/bundle/" in from_bundle
    assert "http:" not in from_bundle
    assert "file:" not in own


def test_a_lost_image_is_made_again_from_the_copy_if_the_policy_accepts_it(live: Live) -> None:
    (digest,) = live.run("ls /var/lib/ringfence/images").split()
    changed = {**live.declared["web"], "environment": {"CHANGED": "yes"}}
    live.run(f"mv /srv/bundles /srv/away; rm -r /var/lib/ringfence/images/{digest}; cp /etc/containers/policy.json /root/")
    live.run(f"echo '{_REJECT}' >/etc/containers/policy.json")
    refused = live.converge(changed)
    live.run("cp /root/policy.json /etc/containers/")
    assert (refused["failed"], "policy.json refuses it" in refused["msg"]) == (True, True), refused
    assert live.page_from_outside() == "page of web"
    done = live.converge(changed)
    back = live.converge(live.declared["web"])
    live.run("mv /srv/away /srv/bundles")
    assert (done["failed"], back["failed"]) == (False, False), (done, back)
    assert live.run("ls /var/lib/ringfence/images").split() == [digest]
