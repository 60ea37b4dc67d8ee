#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/qemu_command.hpp>

#include <catch2/catch.hpp>

#include <algorithm>

using namespace nixbuild;
using namespace nixbuild::sandbox;

namespace {

QemuDescriptors descriptors() {
  QemuDescriptors fds;
  fds.kernel = 10;
  fds.initramfs = 11;
  fds.disk = 12;
  fds.extents = {13, 14};
  fds.control = 15;
  fds.log = 16;
  fds.output = 17;
  return fds;
}

std::string joined(const std::vector<std::string>& arguments) {
  std::string text;
  for (const auto& argument : arguments) {
    text += (argument.starts_with('-') && !text.empty() ? "\n"
             : text.empty()                             ? ""
                                                        : " ") +
            argument;
  }
  return text;
}

} // namespace

TEST_CASE("qemu command: the whole line of an emulated machine", "[sandbox][golden]") {
  const auto command = qemu_command({}, descriptors());
  CHECK(joined(command.arguments) ==
        R"(/usr/bin/qemu-system-x86_64
-nodefaults
-no-user-config
-display none
-no-reboot
-M q35,sata=off,smbus=off,hpet=off,vmport=off,usb=off,smm=off,graphics=off,mem-merge=off,dump-guest-core=off
-accel tcg,thread=multi,tb-size=256
-cpu max,la57=off,svm=off
-smp 1
-m 512M
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-kernel /proc/self/fd/10
-initrd /proc/self/fd/11
-append quiet rdinit=/init panic=-1 mitigations=off lsm=landlock,capability audit=0 cryptomgr.notests no_timer_check random.trust_cpu=on random.trust_bootloader=on swiotlb=noforce noreplace-smp initcall_blacklist=crypto_kdf108_init,init_kprobe_trace console=null
-device virtio-serial-pci,id=ports,max_ports=4,disable-legacy=on
-chardev socket,id=ctl,fd=15
-device virtserialport,bus=ports.0,chardev=ctl,name=nixbuild.ctl
-chardev socket,id=log,fd=16
-device virtserialport,bus=ports.0,chardev=log,name=nixbuild.log
-chardev socket,id=out,fd=17
-device virtserialport,bus=ports.0,chardev=out,name=nixbuild.out
-add-fd fd=12,set=1
-add-fd fd=13,set=2
-add-fd fd=14,set=3
-blockdev driver=vmdk,node-name=inputs,read-only=on,file.driver=file,file.filename=/dev/fdset/1,file.read-only=on,file.locking=off
-object iothread,id=disk-thread
-device virtio-blk-pci,drive=inputs,serial=inputs,iothread=disk-thread,disable-legacy=on
-object rng-builtin,id=rng
-device virtio-rng-pci,rng=rng,disable-legacy=on)");
  CHECK(command.descriptors == std::vector<int>{10, 11, 15, 16, 17, 12, 13, 14});
}

TEST_CASE("qemu command: KVM, size, network and console", "[sandbox]") {
  QemuMachine machine;
  machine.accelerator = Accelerator::Kvm;
  machine.cpus = 8;
  machine.memory_bytes = 3 * kGiB + 1;
  machine.debug_console = true;
  machine.kernel_options = "nosmp";
  auto fds = descriptors();
  fds.network = 18;
  const auto command = qemu_command(machine, fds);
  const auto has = [&](std::string_view argument) {
    return std::find(command.arguments.begin(), command.arguments.end(), argument) !=
           command.arguments.end();
  };
  CHECK(has("kvm"));
  CHECK(has("host,vmx=off,svm=off"));
  CHECK(has("8"));
  CHECK(has("3073M"));
  CHECK(has("chardev:console"));
  CHECK(has("stream,id=net,server=off,addr.type=fd,addr.str=18"));
  CHECK(command.descriptors.back() == 18);
  CHECK(joined(command.arguments).find("console=ttyS0 ignore_loglevel nosmp") != std::string::npos);
}

TEST_CASE("qemu command: a scratch disk comes behind the inputs", "[sandbox]") {
  auto fds = descriptors();
  fds.scratch = 19;
  const auto command = qemu_command({}, fds);
  const auto line = joined(command.arguments);
  CHECK(line.find(R"(-add-fd fd=19,set=4
-blockdev driver=raw,node-name=scratch,discard=unmap,cache.no-flush=on,file.driver=file,file.filename=/dev/fdset/4,file.locking=off
-device virtio-blk-pci,drive=scratch,serial=scratch,iothread=disk-thread,werror=stop,disable-legacy=on
)") != std::string::npos);
  CHECK(command.descriptors.back() == 19);
}

TEST_CASE("qemu command: impossible machines are refused", "[sandbox][reject]") {
  const auto refuse = [](unsigned cpus, std::uint64_t memory) {
    QemuMachine machine;
    machine.cpus = cpus;
    machine.memory_bytes = memory;
    try {
      (void)qemu_command(machine, descriptors());
      FAIL("accepted");
    } catch (const Error& error) {
      CHECK(error.code() == "sandbox.machine");
    }
  };
  refuse(0, kGiB);
  refuse(2000, kGiB);
  refuse(1, 0);
  refuse(1, ~std::uint64_t{0});
}
