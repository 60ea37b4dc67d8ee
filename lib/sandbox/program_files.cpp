#include "sandbox/program_files.hpp"

#include <nixbuild/base/descriptor.hpp>

#include <elf.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <optional>
#include <sstream>

namespace nixbuild::sandbox {

namespace fs = std::filesystem;

namespace {

constexpr const char* kFilesCode = "sandbox.spawn";
constexpr std::size_t kMostListed = 1024 * 1024;

constexpr std::array<const char*, 8> kWholeSystem{
    "/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/nix/store"};

struct ProgramKind {
  bool elf = false;
  std::string loader; ///< empty: linked statically
};

ProgramKind look_at(const fs::path& program) {
  ProgramKind kind;
  std::ifstream file(program, std::ios::binary);
  Elf64_Ehdr header{};
  if (!file.read(reinterpret_cast<char*>(&header), sizeof header) ||
      !std::equal(ELFMAG, ELFMAG + SELFMAG, header.e_ident)) {
    return kind;
  }
  kind.elf = true;
  file.seekg(static_cast<std::streamoff>(header.e_phoff));
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr part{};
    if (!file.read(reinterpret_cast<char*>(&part), sizeof part)) {
      break;
    }
    if (part.p_type == PT_INTERP && part.p_filesz > 1 && part.p_filesz < 4096) {
      kind.loader.resize(part.p_filesz - 1);
      file.seekg(static_cast<std::streamoff>(part.p_offset));
      file.read(kind.loader.data(), static_cast<std::streamsize>(kind.loader.size()));
      break;
    }
  }
  return kind;
}

/// What `loader --list program` writes.
std::string ask_loader(std::string loader, std::string program) {
  int ends[2];
  system_call(kFilesCode, "pipe", [&] { return ::pipe2(ends, O_CLOEXEC); });
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, writer.get(), 1);
  std::string list = "--list";
  std::array<char*, 4> argv{loader.data(), list.data(), program.data(), nullptr};
  std::array<char*, 1> environment{nullptr};
  pid_t pid = 0;
  const int error =
      ::posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environment.data());
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    throw_system_error(kFilesCode, loader, error);
  }
  writer.reset();
  std::string text;
  std::array<char, 8192> buffer;
  for (ssize_t got = 1; got > 0 || errno == EINTR;) {
    errno = 0;
    got = ::read(reader.get(), buffer.data(), buffer.size());
    if (got > 0 && text.size() < kMostListed) {
      text.append(buffer.data(), static_cast<std::size_t>(got));
    } else if (got == 0) {
      break;
    }
  }
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  return text;
}

class Collector {
public:
  void add(const fs::path& path, bool execute) {
    std::error_code ignored;
    if (!path.is_absolute() || !fs::exists(path, ignored)) {
      return;
    }
    const auto same = std::find_if(
        files_.begin(), files_.end(), [&](const SeenFile& file) { return file.path == path; });
    if (same == files_.end()) {
      files_.push_back({path, execute});
    } else {
      same->execute = same->execute || execute;
    }
  }

  /// A program or a module of one. False: it is no program that can be looked into.
  bool add_linked(const fs::path& file, const std::string& loader, bool execute) {
    const auto kind = look_at(file);
    if (!kind.elf) {
      return false;
    }
    add(file, execute);
    const auto& by = kind.loader.empty() ? loader : kind.loader;
    if (by.empty()) {
      return true;
    }
    add(by, true);
    std::istringstream lines(ask_loader(by, file));
    for (std::string line; std::getline(lines, line);) {
      // `name => path (address)` or `path (address)`.
      const auto arrow = line.find("=> ");
      const auto from = arrow == std::string::npos ? line.find_first_not_of(" \t") : arrow + 3;
      if (from != std::string::npos && line[from] == '/') {
        add(line.substr(from, line.find(" (", from) - from), false);
      }
    }
    return true;
  }

  /// Firmware and modules below a prefix such as /usr.
  void add_parts(const fs::path& prefix, const std::string& loader) {
    for (const auto* name : {"share/qemu", "share/qemu-kvm", "share/seabios"}) {
      add(prefix / name, false);
    }
    for (const auto* library : {"lib", "lib64", "lib/x86_64-linux-gnu"}) {
      for (const auto* name : {"qemu", "qemu-kvm"}) {
        const auto folder = prefix / library / name;
        add(folder, false);
        std::error_code ignored;
        for (const auto& module : fs::directory_iterator(folder, ignored)) {
          if (module.path().filename().string().starts_with("accel-")) {
            add_linked(module.path(), loader, false);
          }
        }
      }
    }
  }

  std::vector<SeenFile> files_;
};

fs::path prefix_of(const fs::path& program) {
  const auto folder = program.parent_path();
  const auto name = folder.filename();
  return name == "bin" || name == "libexec" ? folder.parent_path() : folder;
}

} // namespace

std::vector<SeenFile> files_of_program(const fs::path& program) {
  Collector found;
  std::error_code error;
  const auto real = fs::canonical(program, error);
  if (error) {
    return {{program, true}}; // starting it will tell
  }
  if (!found.add_linked(real, {}, true)) {
    for (const auto* folder : kWholeSystem) {
      found.add(folder, true);
    }
    found.add(prefix_of(program), true);
  }
  found.add(program, true);
  // What nixpkgs puts in front of a program executes the one beside it.
  const auto wrapped = real.parent_path() / ("." + real.filename().string() + "-wrapped");
  if (fs::exists(wrapped, error)) {
    found.add_linked(wrapped, {}, true);
  }
  const auto loader = look_at(real).loader;
  found.add_parts(prefix_of(real), loader);
  if (prefix_of(program) != prefix_of(real)) {
    found.add_parts(prefix_of(program), loader);
  }
  found.add("/etc/ld.so.cache", false);
  return std::move(found.files_);
}

bool sees_whole_system(const std::vector<SeenFile>& files) {
  return std::any_of(
      files.begin(), files.end(), [](const SeenFile& file) { return file.path == "/usr"; });
}

std::string encode_files(const std::vector<SeenFile>& files) {
  std::string text;
  for (const auto& file : files) {
    text += (file.execute ? "x" : "r") + file.path.string() + "\n";
  }
  return text;
}

std::vector<SeenFile> decode_files(std::string_view text) {
  std::vector<SeenFile> files;
  while (!text.empty()) {
    const auto line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (line.size() > 1) {
      files.push_back({fs::path(line.substr(1)), line[0] == 'x'});
    }
  }
  return files;
}

} // namespace nixbuild::sandbox
