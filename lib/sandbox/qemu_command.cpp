#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/qemu_command.hpp>

#include <fmt/format.h>

namespace nixbuild::sandbox {

namespace {

constexpr std::uint64_t kMinMemory = 128 * kMiB;
constexpr std::uint64_t kMaxMemory = 64 * 1024 * kGiB;
constexpr unsigned kMaxCpus = 1024;

/// Everything that a build machine has no use for is off: less to start, less to attack.
constexpr const char* kMachine = "q35,sata=off,smbus=off,hpet=off,vmport=off,usb=off,smm=off,"
                                 "graphics=off,mem-merge=off,dump-guest-core=off";

/// One build is the one trust domain of its machine, so mitigations between its processes buy
/// nothing; self-tests and most security modules cost boot time. Builders may use Landlock, as on
/// other hosts. Devices see all of the memory, so a bounce buffer of 64 MiB would only be zeroed;
/// the rest of the last line is work at boot that nothing here asks for.
constexpr const char* kKernelOptions =
    "quiet rdinit=/init panic=-1 mitigations=off lsm=landlock,capability audit=0 "
    "cryptomgr.notests no_timer_check random.trust_cpu=on random.trust_bootloader=on "
    "swiotlb=noforce noreplace-smp initcall_blacklist=crypto_kdf108_init,init_kprobe_trace";

void add_port(QemuCommand& command, std::string_view id, std::string_view name, int fd) {
  auto& args = command.arguments;
  args.insert(args.end(), {"-chardev", fmt::format("socket,id={},fd={}", id, fd)});
  args.insert(args.end(),
              {"-device", fmt::format("virtserialport,bus=ports.0,chardev={},name={}", id, name)});
  command.descriptors.push_back(fd);
}

void add_set(QemuCommand& command, int fd, std::size_t set) {
  auto& args = command.arguments;
  args.insert(args.end(), {"-add-fd", fmt::format("fd={},set={}", fd, set)});
  command.descriptors.push_back(fd);
}

void add_disk(QemuCommand& command, const QemuDescriptors& fds) {
  auto& args = command.arguments;
  add_set(command, fds.disk, 1);
  for (std::size_t i = 0; i < fds.extents.size(); ++i) {
    add_set(command, fds.extents[i], i + 2);
  }
  args.insert(args.end(),
              {"-blockdev",
               "driver=vmdk,node-name=inputs,read-only=on,file.driver=file,"
               "file.filename=/dev/fdset/1,file.read-only=on,file.locking=off",
               "-object",
               "iothread,id=disk-thread",
               "-device",
               fmt::format("virtio-blk-pci,drive=inputs,serial={},iothread=disk-thread,"
                           "disable-legacy=on",
                           kInputsSerial)});
}

/// Nothing on it outlives the machine, so nothing waits for the host's disk. What the host cannot
/// write stops the machine: a builder must not read back something else than it has written.
void add_scratch(QemuCommand& command, const QemuDescriptors& fds) {
  const auto set = fds.extents.size() + 2;
  add_set(command, *fds.scratch, set);
  command.arguments.insert(
      command.arguments.end(),
      {"-blockdev",
       fmt::format("driver=raw,node-name=scratch,discard=unmap,cache.no-flush=on,file.driver=file,"
                   "file.filename=/dev/fdset/{},file.locking=off",
                   set),
       "-device",
       fmt::format("virtio-blk-pci,drive=scratch,serial={},iothread=disk-thread,werror=stop,"
                   "disable-legacy=on",
                   kScratchSerial)});
}

} // namespace

std::string_view name_of(Accelerator accelerator) noexcept {
  return accelerator == Accelerator::Kvm ? "kvm" : "tcg";
}

std::string extent_path(std::size_t index) {
  return fmt::format("/dev/fdset/{}", index + 2);
}

QemuCommand qemu_command(const QemuMachine& machine, const QemuDescriptors& fds) {
  if (machine.cpus < 1 || machine.cpus > kMaxCpus) {
    throw Error(Reaction::Reject,
                "sandbox.machine",
                fmt::format("{} CPUs; 1 to {} are possible", machine.cpus, kMaxCpus));
  }
  if (machine.memory_bytes < kMinMemory || machine.memory_bytes > kMaxMemory) {
    throw Error(Reaction::Reject,
                "sandbox.machine",
                fmt::format("{} bytes of memory; {} to {} are possible",
                            machine.memory_bytes,
                            kMinMemory,
                            kMaxMemory));
  }
  const bool kvm = machine.accelerator == Accelerator::Kvm;
  std::string options = kKernelOptions;
  options += machine.debug_console ? " console=ttyS0 ignore_loglevel" : " console=null";
  if (!machine.kernel_options.empty()) {
    options += " " + machine.kernel_options;
  }
  QemuCommand command;
  auto& args = command.arguments;
  args = {machine.binary,
          "-nodefaults",
          "-no-user-config",
          "-display",
          "none",
          "-no-reboot",
          "-M",
          kMachine,
          "-accel",
          // The default translation cache is a GiB, more than most guests' memory.
          kvm ? "kvm" : "tcg,thread=multi,tb-size=256",
          "-cpu",
          // `max` so that x86-64-v3 programs run; five-level paging would only slow walks down.
          kvm ? "host,vmx=off,svm=off" : "max,la57=off,svm=off",
          "-smp",
          std::to_string(machine.cpus),
          "-m",
          fmt::format("{}M", (machine.memory_bytes + kMiB - 1) / kMiB),
          "-sandbox",
          "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
          "-kernel",
          fmt::format("/proc/self/fd/{}", fds.kernel),
          "-initrd",
          fmt::format("/proc/self/fd/{}", fds.initramfs),
          "-append",
          options};
  command.descriptors = {fds.kernel, fds.initramfs};
  if (machine.debug_console) {
    args.insert(args.end(),
                {"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"});
  }
  args.insert(args.end(),
              {"-device",
               fmt::format("virtio-serial-pci,id=ports,max_ports={},disable-legacy=on",
                           fds.store ? 5 : 4)});
  add_port(command, "ctl", kControlPort, fds.control);
  add_port(command, "log", kLogPort, fds.log);
  add_port(command, "out", kOutputPort, fds.output);
  if (fds.store) {
    add_port(command, "nix", kStorePort, *fds.store);
  }
  add_disk(command, fds);
  if (fds.scratch) {
    add_scratch(command, fds);
  }
  args.insert(
      args.end(),
      {"-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng,disable-legacy=on"});
  if (fds.network) {
    args.insert(args.end(),
                {"-netdev",
                 fmt::format("stream,id=net,server=off,addr.type=fd,addr.str={}", *fds.network),
                 "-device",
                 "virtio-net-pci,netdev=net,romfile=,disable-legacy=on"});
    command.descriptors.push_back(*fds.network);
  }
  return command;
}

} // namespace nixbuild::sandbox
