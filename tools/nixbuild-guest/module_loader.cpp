#include "module_loader.hpp"

#include "files.hpp"
#include "machine.hpp"

#include <nixbuild/base/error.hpp>

#include <fcntl.h>
#include <fnmatch.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>

namespace nixbuild::guest {

namespace {

constexpr const char* kProgram = "/modprobe";
constexpr const char* kModules = "/modules";
constexpr std::string_view kSuffix = ".ko";

std::string with_underscores(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

/// A module's file, for the texts in it that describe it (`alias=net-pf-38`).
class ModuleTexts {
public:
  explicit ModuleTexts(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));

    struct stat info {};

    if (fd && ::fstat(fd.get(), &info) == 0 && info.st_size > 0) {
      size_ = static_cast<std::size_t>(info.st_size);
      bytes_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    }
  }

  ~ModuleTexts() {
    if (bytes_ != MAP_FAILED) {
      ::munmap(bytes_, size_);
    }
  }

  ModuleTexts(const ModuleTexts&) = delete;
  ModuleTexts& operator=(const ModuleTexts&) = delete;

  /// Calls `take` with each value of `key`, which ends in `=`.
  template <class Take>
  void each(std::string_view key, Take take) const {
    if (bytes_ == MAP_FAILED) {
      return;
    }
    const std::string_view all(static_cast<const char*>(bytes_), size_);
    for (auto at = all.find(key); at != std::string_view::npos; at = all.find(key, at + 1)) {
      // The texts lie side by side, each with a zero behind it.
      if (at == 0 || all[at - 1] == '\0') {
        const auto value = all.substr(at + key.size());
        take(std::string(value.substr(0, value.find('\0'))));
      }
    }
  }

private:
  void* bytes_ = MAP_FAILED;
  std::size_t size_ = 0;
};

std::string file_of(const std::string& module) {
  return std::string(kModules) + "/" + module + std::string(kSuffix);
}

/// Depth first; a module that is built in, or of the boot, has no file or is there already.
void load_with_needs(const std::string& module, std::set<std::string>& seen) {
  if (!seen.insert(module).second) {
    return;
  }
  const auto path = file_of(module);
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    return;
  }
  ModuleTexts(path).each("depends=", [&](const std::string& names) {
    for (std::size_t at = 0; at < names.size();) {
      const auto end = std::min(names.find(',', at), names.size());
      load_with_needs(with_underscores(names.substr(at, end - at)), seen);
      at = end + 1;
    }
  });
  if (::syscall(SYS_finit_module, fd.get(), "", 0) != 0 && errno != EEXIST) {
    say_to_kernel("nixbuild-guest: module " + module + ": " + std::to_string(errno));
  }
}

bool is_called(const std::string& module, const std::string& name) {
  if (module == with_underscores(name)) {
    return true;
  }
  bool found = false;
  ModuleTexts(file_of(module)).each("alias=", [&](const std::string& alias) {
    found = found || ::fnmatch(alias.c_str(), name.c_str(), 0) == 0;
  });
  return found;
}

} // namespace

void offer_modules(int initramfs) {
  try {
    const auto from = "/proc/self/fd/" + std::to_string(initramfs);
    write_file(kProgram, {}, 0500);
    mount_at((from + "/init").c_str(), kProgram, nullptr, MS_BIND);
    make_folder(kModules, 0755);
    mount_at((from + "/modules").c_str(), kModules, nullptr, MS_BIND);
    write_kernel_file("/proc/sys/kernel/modprobe", kProgram);
  } catch (const std::exception& error) {
    say_to_kernel(std::string("nixbuild-guest: ") + error.what());
  }
}

int load_on_demand(const char* name) {
  bool found = false;
  std::set<std::string> seen;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(kModules, ignored)) {
    auto module = entry.path().filename().string();
    if (!module.ends_with(kSuffix)) {
      continue;
    }
    module.resize(module.size() - kSuffix.size());
    if (is_called(module, name)) {
      found = true;
      load_with_needs(module, seen);
    }
  }
  return found ? 0 : 1;
}

} // namespace nixbuild::guest
