"""Which kernel a machine gets, and Debian's own one, which has as modules what the cloud kernel has built in."""

import os
import shutil

from lab import (
    KERNELS,
    LOST,
    asking_for,
    client_of,
    doctor,
    kernel_in_boot,
    kernel_version,
    lab_server,
    nixbuild,
    record_of,
    said_to,
    told_of_loss,
    watch,
)

BODY = "$busybox/bin/busybox uname -r > $out"


def built_with(server, small, tag):
    """The kernel that a build ran with."""
    with asking_for(server, small, tag, BODY) as asking:
        watch(server, asking, 240, told_of_loss)
        assert not any(LOST in line for line in asking.lines), said_to(asking)
        path = asking.end()
        assert asking.process.returncode == 0, said_to(asking)
    assert record_of(server, tag)["accelerator"] == "kvm"
    return client_of(server).real(path).read_text().strip()


def test_stock_kernel_in_boot_builds(scratch, small):
    with lab_server(scratch, imported=False) as server, kernel_in_boot("stock") as version:
        level, says = doctor(server)["kernel"]
        assert level == "ok" and version in says
        assert built_with(server, small, "stock") == version


def test_imported_kernel_goes_before_the_one_in_boot(scratch, small):
    cloud = kernel_version("cloud")
    with lab_server(scratch) as server, kernel_in_boot("stock"):
        level, says = doctor(server)["kernel"]
        assert level == "ok" and cloud in says, says
        assert cloud in nixbuild(server, "kernel", "list").stdout
        assert built_with(server, small, "imported") == cloud


def without_checksums(folder):
    """The stock kernel's modules less those that compute CRC32C, which mounting the inputs takes."""
    version = kernel_version("stock")
    there = (KERNELS / "stock/lib/modules" / version).resolve()
    here = folder / version
    absent = ("crc32c_generic.ko", "crc32c-intel.ko")
    for name in ("crypto", "lib", "fs", "arch", "drivers/virtio", "drivers/char", "drivers/block", "drivers/net", "net"):
        shutil.copytree(
            there / "kernel" / name, here / "kernel" / name, copy_function=os.symlink,
            ignore=lambda _, names: [each for each in names if each.startswith(absent)],
        )  # fmt: skip
    for index in there.glob("modules.*"):
        if index.suffix in (".dep", ".softdep", ".builtin", ".alias", ".order"):
            lines = index.read_text().splitlines(keepends=True)
            (here / index.name).write_text("".join(line for line in lines if not any(f"/{each}" in line for each in absent)))
    return here


def test_kernel_that_lacks_a_module_costs_no_machine_after_machine(scratch, small):
    modules = without_checksums(scratch / "modules")
    (image,) = (KERNELS / "stock/boot").glob("vmlinuz-*")
    config = f'[sandbox]\nkernel-image = "{image}"\nkernel-modules = "{modules}"\n'
    with lab_server(scratch, config, imported=False) as server:
        with asking_for(server, small, "lacking", BODY) as asking:
            watch(server, asking, 90, told_of_loss)
            level, says = doctor(server)["kernel"]
    assert not any(LOST in line for line in asking.lines), said_to(asking)
    assert level == "problem", says
