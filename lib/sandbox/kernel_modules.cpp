#include "sandbox/decompress.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/kernel.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

namespace nixbuild::sandbox {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxIndex = 16 * kMiB;
constexpr std::size_t kMaxModuleFile = 64 * kMiB;
constexpr std::size_t kMaxInstalled = 100'000;

/// `kernel/drivers/virtio/virtio-rng.ko.xz` → `virtio_rng`; empty for anything that is no module.
std::string module_name(std::string_view path) {
  auto name = path.substr(path.rfind('/') + 1);
  const auto dot = name.find(".ko");
  if (dot == std::string_view::npos) {
    return {};
  }
  std::string result(name.substr(0, dot));
  std::replace(result.begin(), result.end(), '-', '_');
  return result;
}

template <class Each>
void for_each_line(std::string_view text, Each each) {
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    if (end > 0) {
      each(text.substr(0, end));
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

template <class Each>
void for_each_word(std::string_view text, std::string_view separators, Each each) {
  while (true) {
    const auto begin = text.find_first_not_of(separators);
    if (begin == std::string_view::npos) {
      return;
    }
    text.remove_prefix(begin);
    const auto end = std::min(text.find_first_of(separators), text.size());
    each(text.substr(0, end));
    text.remove_prefix(end);
  }
}

std::string read_index(const fs::path& file) {
  const auto bytes = read_file(file.c_str(), kMaxIndex, "sandbox.kernel-module");
  return std::string(text_of(bytes));
}

/// The `depends=` mark of a module's .modinfo: for folders that depmod has not seen.
std::vector<std::string> depends_of(const fs::path& file) {
  const auto packed = read_file(file.c_str(), kMaxModuleFile, "sandbox.kernel-module");
  const auto module =
      decompress(packed, kMaxModuleFile, "sandbox.kernel-module", file.filename().string());
  const auto text = text_of(module);
  const std::string mark("\0depends=", 9);
  std::vector<std::string> names;
  auto at = text.find(mark);
  if (at == std::string_view::npos) {
    return names;
  }
  at += mark.size();
  const auto end = std::min(text.find('\0', at), text.size());
  for_each_word(text.substr(at, end - at), ",", [&](std::string_view word) {
    names.emplace_back(word);
    std::replace(names.back().begin(), names.back().end(), '-', '_');
  });
  return names;
}

/// What a modules folder holds.
class ModuleFolder {
public:
  explicit ModuleFolder(const fs::path& folder) : folder_(folder) {
    std::error_code absent;
    if (fs::exists(folder / "modules.builtin", absent)) {
      const auto text = read_index(folder / "modules.builtin");
      for_each_line(text, [&](std::string_view line) { built_in_.insert(module_name(line)); });
    }
    indexed_ = fs::exists(folder / "modules.dep", absent);
    if (indexed_) {
      read_dependencies();
    } else {
      find_files();
    }
  }

  [[nodiscard]] bool built_in(const std::string& name) const { return built_in_.contains(name); }

  [[nodiscard]] const fs::path* file_of(const std::string& name) const {
    const auto found = files_.find(name);
    return found == files_.end() ? nullptr : &found->second;
  }

  [[nodiscard]] std::vector<std::string> dependencies_of(const std::string& name) const {
    if (!indexed_) {
      return depends_of(files_.at(name));
    }
    return dependencies_.at(name);
  }

private:
  void read_dependencies() {
    const auto text = read_index(folder_ / "modules.dep");
    for_each_line(text, [&](std::string_view line) {
      const auto colon = line.find(':');
      if (colon == std::string_view::npos) {
        return;
      }
      const auto name = module_name(line.substr(0, colon));
      files_[name] = folder_ / fs::path(line.substr(0, colon));
      auto& needs = dependencies_[name];
      for_each_word(line.substr(colon + 1), " ", [&](std::string_view word) {
        needs.push_back(module_name(word));
      });
      // modules.dep names the last one first.
      std::reverse(needs.begin(), needs.end());
    });
  }

  void find_files() {
    std::size_t seen = 0;
    std::error_code absent;
    for (fs::recursive_directory_iterator at(folder_, absent), end; at != end; ++at) {
      if (++seen > kMaxInstalled) {
        throw Error(Reaction::Reject,
                    "sandbox.kernel-module",
                    fmt::format("{} holds more than {} files", folder_.string(), kMaxInstalled));
      }
      const auto name = module_name(at->path().filename().string());
      if (!name.empty()) {
        files_[name] = at->path();
      }
    }
  }

  fs::path folder_;
  bool indexed_ = false;
  std::set<std::string> built_in_;
  std::map<std::string, fs::path> files_;
  std::map<std::string, std::vector<std::string>> dependencies_;
};

class LoadOrder {
public:
  explicit LoadOrder(const ModuleFolder& folder) : folder_(folder) {}

  void add(const std::string& name, int depth = 0) {
    if (folder_.built_in(name) || !added_.insert(name).second) {
      return;
    }
    const auto* file = folder_.file_of(name);
    if (file == nullptr || depth > 32) {
      throw Error(Reaction::NotFound,
                  "sandbox.kernel-module",
                  fmt::format("the kernel has no module {}, neither built in nor as a file", name));
    }
    for (const auto& needed : folder_.dependencies_of(name)) {
      add(needed, depth + 1);
    }
    order.push_back({name, *file});
  }

  std::vector<ModuleFile> order;

private:
  const ModuleFolder& folder_;
  std::set<std::string> added_;
};

} // namespace

std::vector<ModuleFile> module_load_order(const fs::path& modules,
                                          std::span<const std::string_view> wanted,
                                          std::span<const std::string_view> optional) {
  const ModuleFolder folder(modules);
  LoadOrder result(folder);
  for (const auto name : wanted) {
    const std::string module(name);
    const bool may_be_absent = std::find(optional.begin(), optional.end(), name) != optional.end();
    if (may_be_absent && !folder.built_in(module) && folder.file_of(module) == nullptr) {
      continue;
    }
    result.add(module);
  }
  return std::move(result.order);
}

} // namespace nixbuild::sandbox
