#include "sandbox/decompress.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/kernel.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

namespace nixbuild::sandbox {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxIndex = 16 * kMiB;
constexpr std::size_t kMaxModuleFile = 64 * kMiB;
constexpr std::size_t kMaxInstalled = 100'000;

std::string with_underscores(std::string_view name) {
  std::string result(name);
  std::replace(result.begin(), result.end(), '-', '_');
  return result;
}

/// `kernel/drivers/virtio/virtio-rng.ko.xz` → `virtio_rng`; empty for anything that is no module.
std::string module_name(std::string_view path) {
  auto name = path.substr(path.rfind('/') + 1);
  const auto dot = name.find(".ko");
  if (dot == std::string_view::npos) {
    return {};
  }
  return with_underscores(name.substr(0, dot));
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

/// What a module says that it wants beside it: `pre: a b post: c`. Words before a mark count for
/// nothing, as with modprobe.
struct SoftNeeds {
  std::vector<std::string> before;
  std::vector<std::string> after;
};

void add_soft_needs(SoftNeeds& needs, std::string_view text) {
  std::vector<std::string>* list = nullptr;
  for_each_word(text, " \t", [&](std::string_view word) {
    if (word == "pre:") {
      list = &needs.before;
    } else if (word == "post:") {
      list = &needs.after;
    } else if (list != nullptr) {
      list->emplace_back(word);
    }
  });
}

/// The .modinfo of a module, for folders that depmod has not seen.
struct ModuleInfo {
  std::vector<std::string> depends;
  SoftNeeds soft;
  std::vector<std::string> aliases;
};

ModuleInfo info_of(const fs::path& file) {
  const auto packed = read_file(file.c_str(), kMaxModuleFile, "sandbox.kernel-module");
  const auto module =
      decompress(packed, kMaxModuleFile, "sandbox.kernel-module", file.filename().string());
  const auto text = text_of(module);
  const auto each = [&](std::string_view key, auto take) {
    const auto mark = std::string(1, '\0') + std::string(key) + "=";
    for (auto at = text.find(mark); at != std::string_view::npos; at = text.find(mark, at)) {
      at += mark.size();
      take(text.substr(at, std::min(text.find('\0', at), text.size()) - at));
    }
  };
  ModuleInfo info;
  each("depends", [&](std::string_view value) {
    for_each_word(
        value, ",", [&](std::string_view word) { info.depends.push_back(with_underscores(word)); });
  });
  each("softdep", [&](std::string_view value) { add_soft_needs(info.soft, value); });
  each("alias", [&](std::string_view value) { info.aliases.emplace_back(value); });
  return info;
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
    read_built_in_aliases();
    indexed_ = fs::exists(folder / "modules.dep", absent);
    if (indexed_) {
      read_dependencies();
      read_soft_needs();
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
      return info_of(files_.at(name)).depends;
    }
    return dependencies_.at(name);
  }

  [[nodiscard]] SoftNeeds soft_needs_of(const std::string& name) const {
    if (!indexed_) {
      return info_of(files_.at(name)).soft;
    }
    const auto found = soft_needs_.find(name);
    return found == soft_needs_.end() ? SoftNeeds() : found->second;
  }

  /// The modules that a soft need is met by, all of them, as modprobe takes them: `crc32c` may be
  /// one module's name, or what several offer. None where something built in offers it.
  [[nodiscard]] std::vector<std::string> providers_of(const std::string& wanted) {
    const auto name = with_underscores(wanted);
    if (built_in(name) || built_in_aliases_.contains(wanted)) {
      return {};
    }
    if (file_of(name) != nullptr) {
      return {name};
    }
    if (!std::exchange(knows_aliases_, true)) {
      indexed_ ? read_aliases() : find_aliases();
    }
    const auto found = aliases_.find(wanted);
    return found == aliases_.end() ? std::vector<std::string>() : found->second;
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

  /// Lines `softdep MODULE pre: …`.
  void read_soft_needs() {
    std::error_code absent;
    if (!fs::exists(folder_ / "modules.softdep", absent)) {
      return;
    }
    const auto text = read_index(folder_ / "modules.softdep");
    for_each_line(text, [&](std::string_view line) {
      constexpr std::string_view mark = "softdep ";
      const auto end = line.find(' ', mark.size());
      if (line.starts_with(mark) && end != std::string_view::npos) {
        const auto name = line.substr(mark.size(), end - mark.size());
        add_soft_needs(soft_needs_[with_underscores(name)], line.substr(end));
      }
    });
  }

  /// Lines `alias PATTERN MODULE`. Patterns are for devices; what a module asks for is a name.
  void read_aliases() {
    std::error_code absent;
    if (!fs::exists(folder_ / "modules.alias", absent)) {
      return;
    }
    const auto text = read_index(folder_ / "modules.alias");
    for_each_line(text, [&](std::string_view line) {
      constexpr std::string_view mark = "alias ";
      const auto end = line.find(' ', mark.size());
      if (line.starts_with(mark) && end != std::string_view::npos &&
          line.find('*') == std::string_view::npos) {
        const std::string alias(line.substr(mark.size(), end - mark.size()));
        aliases_[alias].push_back(with_underscores(line.substr(end + 1)));
      }
    });
  }

  /// The same from the modules themselves. A whole distribution's are too many to be opened: what
  /// others ask for by such a name are algorithms, and those lie in folders called `crypto`.
  void find_aliases() {
    for (const auto& [name, file] : files_) {
      const auto place = file.lexically_relative(folder_);
      if (std::find(place.begin(), place.end(), "crypto") == place.end()) {
        continue;
      }
      for (const auto& alias : info_of(file).aliases) {
        aliases_[alias].push_back(name);
      }
    }
  }

  /// Entries `MODULE.alias=NAME`, each with a NUL behind it.
  void read_built_in_aliases() {
    std::error_code absent;
    if (!fs::exists(folder_ / "modules.builtin.modinfo", absent)) {
      return;
    }
    const auto text = read_index(folder_ / "modules.builtin.modinfo");
    for_each_word(text, std::string_view("\0", 1), [&](std::string_view entry) {
      constexpr std::string_view mark = ".alias=";
      if (const auto at = entry.find(mark); at != std::string_view::npos) {
        built_in_aliases_.emplace(entry.substr(at + mark.size()));
      }
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
  bool knows_aliases_ = false;
  std::set<std::string> built_in_;
  std::set<std::string> built_in_aliases_;
  std::map<std::string, fs::path> files_;
  std::map<std::string, std::vector<std::string>> dependencies_;
  std::map<std::string, SoftNeeds> soft_needs_;
  std::map<std::string, std::vector<std::string>> aliases_; ///< once something was looked for
};

class LoadOrder {
public:
  explicit LoadOrder(ModuleFolder& folder) : folder_(folder) {}

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
    const auto soft = folder_.soft_needs_of(name);
    for (const auto& needed : folder_.dependencies_of(name)) {
      add(needed, depth + 1);
    }
    add_softly(soft.before, depth);
    order.push_back({name, *file});
    add_softly(soft.after, depth);
  }

  std::vector<ModuleFile> order;

private:
  /// What would be good to have: whatever of it cannot be loaded is left out.
  void add_softly(const std::vector<std::string>& wanted, int depth) {
    for (const auto& need : wanted) {
      for (const auto& name : folder_.providers_of(need)) {
        auto order_before = order;
        auto added_before = added_;
        if (!try_to_add(name, depth + 1)) {
          order = std::move(order_before);
          added_ = std::move(added_before);
        }
      }
    }
  }

  /// An index may name files that nobody has installed.
  bool try_to_add(const std::string& name, int depth) {
    const auto known = order.size();
    try {
      add(name, depth);
    } catch (const Error&) {
      return false;
    }
    return std::all_of(order.begin() + static_cast<std::ptrdiff_t>(known),
                       order.end(),
                       [](const ModuleFile& module) {
                         std::error_code absent;
                         return fs::exists(module.file, absent);
                       });
  }

  ModuleFolder& folder_;
  std::set<std::string> added_;
};

} // namespace

std::vector<ModuleFile> module_load_order(const fs::path& modules,
                                          std::span<const std::string_view> wanted,
                                          std::span<const std::string_view> optional) {
  ModuleFolder folder(modules);
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
