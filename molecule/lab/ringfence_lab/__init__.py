"""Builds and runs Xen-capable Debian hosts in QEMU on this machine."""
