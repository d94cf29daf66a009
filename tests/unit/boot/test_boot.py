"""How a machine boots into Xen: pure decisions, on texts as GRUB and Xen write them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ansible_collections.ringfence.zones.plugins.module_utils import debian
from ansible_collections.ringfence.zones.plugins.module_utils.boot import decisions
from ansible_collections.ringfence.zones.plugins.module_utils.errors import InvalidDeclaration

OPTIONS = decisions.parse_options("1536MiB", 0, [], 600)
LINUX = "BOOT_IMAGE=/boot/vmlinuz-6.12 root=UUID=1234 ro console=ttyS0,115200 quiet"
DOM0 = "root=UUID=1234 ro console=ttyS0,115200 quiet console=tty0 console=hvc0 panic=30"
XEN = "dom0_mem=1536M,max:1536M com1=115200,8n1 console=com1,vga ucode=scan pv=no-32 gnttab=max-ver:1,no-transitive"

MACHINE = decisions.Machine(
    container=False,
    distribution="debian",
    release="13",
    architecture="x86_64",
    memory=4096,
    disk_free=8000,
    xen_installed=False,
    grub=True,
    grub_file_system="ext4",
    grub_device_plain=True,
    grub_submenus=True,
    secure_boot=False,
    dom0_kernel=True,
    foreign_python="",
    hypervisor="",
)


def grub_cfg(xen: str = XEN, dom0: str = DOM0) -> str:
    """A grub.cfg as Debian's update-grub writes it, shortened."""
    return f"""\
menuentry 'Debian GNU/Linux' --class debian --class os $menuentry_id_option 'gnulinux-simple-1234' {{
\tlinux\t/boot/vmlinuz-6.12 root=UUID=1234 ro
}}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-1234' {{
\tmenuentry 'Debian GNU/Linux, with Linux 6.12' --class debian $menuentry_id_option 'gnulinux-6.12-advanced-1234' {{
\t}}
}}
menuentry 'Debian GNU/Linux GNU/Linux, with Xen hypervisor' --class xen $menuentry_id_option 'xen-gnulinux-simple-1234' {{
\tinsmod part_gpt
        if [ "$grub_platform" = "pc" -o "$grub_platform" = "" ]; then
            xen_rm_opts=
        else
            xen_rm_opts="no-real-mode edd=off"
        fi
\tmultiboot2\t/boot/xen-4.20-amd64.gz placeholder {xen}  ${{xen_rm_opts}}
\tmodule2\t/boot/vmlinuz-6.12 placeholder {dom0}
\tmodule2\t--nounzip   /boot/initrd.img-6.12
}}
submenu 'Advanced options for Debian GNU/Linux GNU/Linux (with Xen hypervisor)' $menuentry_id_option 'gnulinux-advanced-1234' {{
\tmenuentry 'with Xen 4.20' --class xen $menuentry_id_option 'xen-gnulinux-6.12-advanced-1234' {{
\t\tmultiboot2\t/boot/xen-4.20-amd64.gz placeholder other
\t}}
}}
"""


def test_a_fit_machine_has_no_problem() -> None:
    assert decisions.preflight(MACHINE, OPTIONS) == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"container": True}, "container"),
        ({"release": "11"}, "debian 11"),
        ({"distribution": "ubuntu", "release": "24.04"}, "ubuntu 24.04"),
        ({"architecture": "aarch64"}, "aarch64"),
        ({"memory": 2047}, "2047 MiB of memory"),
        ({"disk_free": 1499}, "1499 MiB are free"),
        ({"grub": False}, "no GRUB"),
        ({"grub_file_system": "btrfs"}, "/boot/grub is on btrfs: GRUB cannot write"),
        ({"grub_device_plain": False}, "ext4 above LVM"),
        ({"grub_submenus": False}, "GRUB_DISABLE_SUBMENU"),
        ({"secure_boot": True}, "Secure Boot"),
        ({"dom0_kernel": False}, "CONFIG_XEN_DOM0"),
        ({"foreign_python": "/opt/bin/python3"}, "the tasks run with /opt/bin/python3, which"),
        ({"hypervisor": "this is a host of Proxmox VE"}, "this is a host of Proxmox VE: Xen cannot share a machine"),
    ],
)
def test_each_fault_of_a_machine_is_named(fault: dict[str, object], words: str) -> None:
    (problem,) = decisions.preflight(replace(MACHINE, **fault), OPTIONS)  # type: ignore[arg-type]
    assert words in problem


def test_all_faults_are_named_at_once() -> None:
    faulty = replace(MACHINE, architecture="i686", memory=1024, secure_boot=True)
    assert len(decisions.preflight(faulty, OPTIONS)) == 3


def test_memory_at_the_bound_and_a_full_disk_of_a_host_that_has_its_packages_are_accepted() -> None:
    assert decisions.preflight(replace(MACHINE, memory=2048, disk_free=10, xen_installed=True), OPTIONS) == []


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"dom0_memory": "1536"}, "dom0_memory: '1536'"),
        ({"dom0_memory": "512MiB"}, "768MiB"),
        ({"dom0_cpus": -1}, "dom0_cpus"),
        ({"xen_options": ["iommu=1 loglvl=all"]}, "not one Xen option"),
        ({"xen_options": ["com1=$(reboot)"]}, "not one Xen option"),
        ({"xen_options": ['a"b']}, "not one Xen option"),
        ({"xen_options": ["a`b`"]}, "not one Xen option"),
        ({"xen_options": ["it's"]}, "not one Xen option"),
        ({"xen_options": ["dom0_mem=1G"]}, "not accepted"),
        ({"xen_options": ["noreboot"]}, "not accepted"),
        ({"trial_timeout": 59}, "trial_timeout"),
    ],
)
def test_a_bad_declaration_is_refused(declared: dict[str, object], words: str) -> None:
    good = {"dom0_memory": "1536MiB", "dom0_cpus": 0, "xen_options": [], "trial_timeout": 600}
    with pytest.raises(InvalidDeclaration, match=words.replace("$", r"\$")):
        decisions.parse_options(**{**good, **declared})  # type: ignore[arg-type]


def test_memory_is_counted_in_mib() -> None:
    assert decisions.parse_options("2GiB", 0, [], 600).dom0_memory == 2048


def test_xen_gets_the_serial_console_that_linux_has() -> None:
    assert decisions.xen_arguments(OPTIONS, LINUX) == XEN.split()
    assert "com2=9600,8n1" in decisions.xen_arguments(OPTIONS, "console=tty0 console=ttyS1")
    assert not [word for word in decisions.xen_arguments(OPTIONS, "quiet") if word.startswith(("com", "console"))]


def test_an_option_of_the_operator_replaces_ours() -> None:
    arguments = decisions.xen_arguments(decisions.parse_options("1GiB", 2, ["ucode=no", "iommu=1"], 600), "quiet")
    assert arguments == [
        "dom0_mem=1024M,max:1024M",
        "dom0_max_vcpus=2",
        "pv=no-32",
        "gnttab=max-ver:1,no-transitive",
        "ucode=no",
        "iommu=1",
    ]


def test_the_entries_of_grub_are_found() -> None:
    entries = decisions.parse_entries(grub_cfg())
    assert (entries.linux, entries.xen) == ("gnulinux-simple-1234", "xen-gnulinux-simple-1234")
    assert (entries.xen_command_line, entries.dom0_command_line) == (XEN, DOM0)
    assert decisions.entry_is_current(entries, OPTIONS, LINUX)


def test_an_entry_without_our_options_or_with_others_is_not_current() -> None:
    assert not decisions.entry_is_current(decisions.parse_entries(grub_cfg(xen="")), OPTIONS, LINUX)
    assert not decisions.entry_is_current(decisions.parse_entries(grub_cfg(xen=f"{XEN} noreboot")), OPTIONS, LINUX)
    assert not decisions.entry_is_current(decisions.parse_entries(grub_cfg(dom0="root=UUID=1234")), OPTIONS, LINUX)
    assert not decisions.entry_is_current(decisions.parse_entries("menuentry 'x' --id gnulinux-simple-1234 {\n}\n"), OPTIONS, LINUX)


def test_grubs_environment_is_read() -> None:
    block = b"# GRUB Environment Block\n# WARNING: a=b\nsaved_entry=gnulinux-simple-1234\nnext_entry=\n" + b"#" * 900
    assert decisions.parse_environment(block) == {"saved_entry": "gnulinux-simple-1234", "next_entry": ""}


@pytest.mark.parametrize(
    ("settings", "submenus"),
    [
        ("GRUB_DEFAULT=0\n#GRUB_DISABLE_SUBMENU=y\n", True),
        ("GRUB_DEFAULT=0\nGRUB_DISABLE_SUBMENU=y\n", False),
        ('GRUB_DISABLE_SUBMENU="true"\n', False),
        ("export GRUB_DISABLE_SUBMENU='yes' # one list\n", False),
        ("GRUB_DISABLE_SUBMENU=y\nGRUB_DISABLE_SUBMENU=\n", True),
        ("GRUB_DISABLE_SUBMENU=false\n", True),
    ],
)
def test_grubs_last_setting_of_submenus_is_the_one(settings: str, submenus: bool) -> None:
    assert decisions.has_submenus(settings) == submenus


def test_plain_linux_is_a_reason_to_reboot() -> None:
    assert decisions.reasons_to_reboot(decisions.Running(False, "", LINUX), OPTIONS) == ["plain Linux is booted, not Xen"]


def test_xen_as_declared_needs_no_reboot() -> None:
    assert decisions.reasons_to_reboot(decisions.Running(True, f"placeholder {XEN} no-real-mode edd=off", DOM0), OPTIONS) == []


def test_each_difference_is_a_reason_to_reboot() -> None:
    running = decisions.Running(True, f"placeholder {XEN} loglvl=all", DOM0.replace(" panic=30", ""))
    reasons = decisions.reasons_to_reboot(running, decisions.parse_options("2GiB", 0, [], 600))
    assert reasons == [
        "Xen was booted without dom0_mem=2048M,max:2048M",
        "Xen was booted with dom0_mem=1536M,max:1536M",
        "Xen was booted with loglvl=all",
        "dom0 was booted without panic=30",
    ]


def test_the_boot_configuration_keeps_linux_the_default() -> None:
    content = {file.path: file.content for file in decisions.host_files(OPTIONS, LINUX)}[decisions.GRUB_FILE]
    assert "GRUB_DEFAULT=saved\n" in content
    assert f'GRUB_CMDLINE_XEN="{XEN}"\n' in content


def test_the_deadline_of_a_trial_is_the_declared_one() -> None:
    files = {file.path: file.content for file in decisions.host_files(decisions.parse_options("1GiB", 0, [], 321), LINUX)}
    assert "OnBootSec=321\n" in files[f"/etc/systemd/system/{decisions.TRIAL_TIMER}"]


def test_each_supported_release_has_its_own_libvirtd() -> None:
    assert "libvirt-daemon" in debian.packages("13")
    assert "libvirt-daemon-system" in debian.packages("12")
    assert not [name for name in debian.packages("13") if "qemu" in name or name == "libvirt-daemon-system"]


@pytest.mark.parametrize(
    ("command_line", "ports"), [("quiet", []), ("console=ttyS0", ["ttyS0"]), ("console=ttyS0 console=ttyS1,9600", ["ttyS1"])]
)
def test_no_login_is_tried_on_a_port_that_xen_has(command_line: str, ports: list[str]) -> None:
    paths = [file.path for file in decisions.host_files(OPTIONS, command_line) if "getty" in file.path]
    assert paths == [f"/etc/systemd/system/serial-getty@{port}.service.d/ringfence.conf" for port in ports]
