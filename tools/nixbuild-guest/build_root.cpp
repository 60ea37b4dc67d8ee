#include "build_root.hpp"

#include "files.hpp"
#include "input_store.hpp"
#include "machine.hpp"

#include <nixbuild/base/error.hpp>

#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <utility>

namespace nixbuild::guest {

namespace {

/// The kernel's own number of inodes would be too small for source trees of small files.
constexpr std::uint64_t kBytesPerInode = 2048;

/// Its tables need no zeroing in the background: it came as zeros.
bool mount_scratch_disk() {
  const auto disk = find_disk("scratch");
  if (disk.empty()) {
    return false;
  }
  if (::mount(disk.c_str(),
              kScratch,
              "ext4",
              MS_NOSUID,
              "noinit_itable,nobarrier,noauto_da_alloc,errors=panic") == 0) {
    return true;
  }
  if (errno != ENODEV) {
    throw_system_error(kCode, std::string("mounting ext4 on '") + kScratch + "'");
  }
  say_to_kernel("nixbuild-guest: this kernel has no ext4: files lie in memory");
  return false;
}

void mount_scratch() {
  make_folder(kScratch, 0755);
  if (mount_scratch_disk()) {
    return;
  }

  struct sysinfo info {};

  ::sysinfo(&info);
  const auto size = std::uint64_t{info.totalram} * info.mem_unit / 2;
  mount_at("scratch",
           kScratch,
           "tmpfs",
           MS_NOSUID,
           "mode=0755,size=" + std::to_string(size) + ",nr_inodes=" +
               std::to_string(std::max<std::uint64_t>(size / kBytesPerInode, 4096)));
}

void make_device(const std::string& path, unsigned major_number, unsigned minor_number) {
  system_call(kCode, path, [&] {
    return ::mknod(path.c_str(), S_IFCHR | 0600, makedev(major_number, minor_number));
  });
  system_call(kCode, path, [&] { return ::chmod(path.c_str(), 0666); });
}

void make_link(const std::string& path, const char* target) {
  system_call(kCode, path, [&] { return ::symlink(target, path.c_str()); });
}

void make_devices(const std::string& dev) {
  make_folder(dev, 0755);
  make_device(dev + "/full", 1, 7);
  make_device(dev + "/null", 1, 3);
  make_device(dev + "/random", 1, 8);
  make_device(dev + "/tty", 5, 0);
  make_device(dev + "/urandom", 1, 9);
  make_device(dev + "/zero", 1, 5);

  struct stat info {};

  if (::stat("/dev/kvm", &info) == 0) {
    make_device(dev + "/kvm", major(info.st_rdev), minor(info.st_rdev));
  }
  make_link(dev + "/fd", "/proc/self/fd");
  make_link(dev + "/stdin", "/proc/self/fd/0");
  make_link(dev + "/stdout", "/proc/self/fd/1");
  make_link(dev + "/stderr", "/proc/self/fd/2");
  make_link(dev + "/ptmx", "/dev/pts/ptmx");
  make_folder(dev + "/pts", 0755);
  make_folder(dev + "/shm", 0755);
}

void make_settings(const std::string& etc, const sandbox::GuestJob& job) {
  const auto uid = std::to_string(job.uid);
  const auto gid = std::to_string(job.gid);
  const auto& home = job.build_dir;
  make_folder(etc, 0755);
  write_file(etc + "/passwd",
             "root:x:0:0:Nix build user:" + home + ":/noshell\n" + "nixbld:x:" + uid + ":" + gid +
                 ":Nix build user:" + home + ":/noshell\n" +
                 "nobody:x:65534:65534:Nobody:/:/noshell\n",
             0644);
  write_file(etc + "/group", "root:x:0:\nnixbld:!:" + gid + ":\nnogroup:x:65534:\n", 0644);
  write_file(
      etc + "/hosts", job.hosts.empty() ? "127.0.0.1 localhost\n::1 localhost\n" : job.hosts, 0644);
  if (job.network) {
    write_file(etc + "/nsswitch.conf", "hosts: files dns\nservices: files\n", 0644);
  }
  if (!job.resolv_conf.empty()) {
    write_file(etc + "/resolv.conf", job.resolv_conf, 0644);
  }
  if (!job.services.empty()) {
    write_file(etc + "/services", job.services, 0644);
  }
  if (!job.certificates.empty()) {
    make_folders(etc + "/ssl/certs");
    write_file(etc + "/ssl/certs/ca-certificates.crt", job.certificates, 0644);
  }
  system_call(kCode, etc, [&] { return ::chmod(etc.c_str(), 0555); });
}

void make_shell(const std::string& bin, int initramfs) {
  make_folder(bin, 0755);
  const auto shell = bin + "/sh";
  write_file(shell, {}, 0555);
  const auto source = "/proc/self/fd/" + std::to_string(initramfs) + "/bin/busybox";
  mount_at(source.c_str(), shell, nullptr, MS_BIND);
  mount_at(nullptr, shell, nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV);
}

/// The database belongs to the builder, with the folders that Nix's tools make files in.
void make_database(const std::string& root, const sandbox::GuestJob& job) {
  const auto state = root + job.store_dir.substr(0, job.store_dir.find_last_of('/')) + "/var";
  for (const auto* folder : {"", "/nix", "/nix/db"}) {
    make_folder(state + folder, 0755, job.uid, job.gid);
  }
  for (const auto& [name, contents] :
       {std::pair<const char*, std::string_view>("db.sqlite", job.input_database),
        std::pair<const char*, std::string_view>("schema", "10")}) {
    const auto path = state + "/nix/db/" + name;
    write_file(path, contents, 0644);
    system_call(kCode, path, [&] { return ::chown(path.c_str(), job.uid, job.gid); });
  }
}

} // namespace

bool scratch_in_memory() {
  struct statfs info {};

  return ::statfs(kScratch, &info) == 0 && info.f_type == TMPFS_MAGIC;
}

std::string store_in(const std::string& root, const sandbox::GuestJob& job) {
  return root + job.store_dir;
}

std::string shared_memory_in(const std::string& root) {
  return root + "/dev/shm";
}

std::string make_build_root(const sandbox::GuestJob& job, int initramfs) {
  mount_inputs();
  mount_scratch();
  const std::string root = std::string(kScratch) + "/root";
  make_folder(root, 0750, 0, job.gid);
  make_shell(root + "/bin", initramfs);
  make_devices(root + "/dev");
  make_settings(root + "/etc", job);
  make_folder(root + "/proc", 0755);
  make_folder(root + "/tmp", S_ISVTX | 0777);
  make_folders((root + job.build_dir).substr(0, (root + job.build_dir).find_last_of('/')));
  make_folder(root + job.build_dir, 0700, job.uid, job.gid);
  for (const auto& file : job.files) {
    const auto path = root + job.build_dir + "/" + file.name;
    write_file(path, file.contents, 0644);
    system_call(kCode, path, [&] { return ::chown(path.c_str(), job.uid, job.gid); });
  }
  make_store(store_in(root, job), job);
  if (!job.input_database.empty()) {
    make_database(root, job);
  }
  // Here, where it can be looked at after the builder's end.
  mount_at("shm", shared_memory_in(root), "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=50%");
  return root;
}

void enter_build_root(const std::string& root, const sandbox::GuestJob& job) {
  mount_at(nullptr, "/", nullptr, MS_REC | MS_PRIVATE);
  mount_at(root.c_str(), root, nullptr, MS_BIND | MS_REC);
  // Only here: a mount costs once more for every namespace and every bind that copies it.
  bind_inputs(store_in(root, job), job);
  mount_at("proc", root + "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC);
  mount_at("devpts",
           root + "/dev/pts",
           "devpts",
           MS_NOSUID | MS_NOEXEC,
           "newinstance,mode=0620,ptmxmode=0666");
  system_call(kCode, root, [&] { return ::chdir(root.c_str()); });
  system_call(kCode, "pivot_root", [] { return ::syscall(SYS_pivot_root, ".", "."); });
  // The old root lies over the new one now.
  system_call(kCode, "the old root", [] { return ::umount2(".", MNT_DETACH); });
  system_call(kCode, "/", [] { return ::chdir("/"); });
}

} // namespace nixbuild::guest
