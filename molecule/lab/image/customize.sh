#!/bin/sh
# Finishes the root file system in $1 after its packages are installed; runs outside of it, without devices and without boot.
set -eu
root=$1
uuid=$2

for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
# Looks for a hypervisor's socket family at every reload, and loads VMware's drivers on the way.
mkdir -p "$root/etc/systemd/system-generators"
ln -sf /dev/null "$root/etc/systemd/system-generators/systemd-ssh-generator"
chroot "$root" systemctl --quiet enable systemd-networkd.service ssh.service

# Whoever waits for a slow machine makes connections that end early; newer versions of sshd lock their source out for that.
if grep -qi persourcepenalties "$root/usr/sbin/sshd"; then
    echo 'PerSourcePenalties no' >"$root/etc/ssh/sshd_config.d/ringfence-lab.conf"
fi

# What grub-install leaves behind on a Debian machine with UEFI, which it cannot do without the machine's devices.
grub=$root/usr/lib/grub/x86_64-efi
install -D -m 644 "$grub/monolithic/grubx64.efi" "$root/boot/efi/EFI/debian/grubx64.efi"
install -D -m 644 "$grub/monolithic/grubx64.efi" "$root/boot/efi/EFI/BOOT/BOOTX64.EFI"
cat >"$root/boot/efi/EFI/debian/grub.cfg" <<END
search.fs_uuid $uuid root
set prefix=(\$root)'/boot/grub'
configfile \$prefix/grub.cfg
END
mkdir -p "$root/boot/grub/x86_64-efi"
cp "$grub"/*.mod "$grub"/*.lst "$root/boot/grub/x86_64-efi/"
chroot "$root" grub-editenv /boot/grub/grubenv create

# update-grub needs the devices as well; this stands in until the machine runs it, with the entry it would make first.
kernel=$(chroot "$root" linux-version list | chroot "$root" linux-version sort --reverse | head -n 1)
cat >"$root/boot/grub/grub.cfg" <<END
set timeout=1
menuentry 'Debian GNU/Linux' --id gnulinux-simple-$uuid {
    search --no-floppy --fs-uuid --set=root $uuid
    linux /boot/vmlinuz-$kernel root=UUID=$uuid ro lsm=landlock,lockdown,yama,apparmor console=ttyS0 quiet panic=5
    initrd /boot/initrd.img-$kernel
}
END

# An empty file: each host gets an identity of its own, but its first boot is not systemd's "first boot" with all presets.
: >"$root/etc/machine-id"

# Nothing is older than the packages: spares the first boot ldconfig, the journal catalog and their like.
touch "$root/etc/.updated" "$root/var/.updated"
