#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/egress.hpp>
#include <nixbuild/server/config.hpp>
#include <nixbuild/server/settings.hpp>

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <sstream>

namespace nixbuild::server {

namespace {

/// Takes one value over, or throws `config.value` through `Reader`.
using Setter = std::function<void(Config&, const toml::node&)>;

[[noreturn]] void
reject(std::string_view code, const std::string& file, unsigned line, std::string message) {
  throw Error(Reaction::Reject, code, fmt::format("{}:{}: {}", file, line, message));
}

class WrongValue {
public:
  explicit WrongValue(std::string wanted) : wanted_(std::move(wanted)) {}

  [[nodiscard]] const std::string& wanted() const noexcept { return wanted_; }

private:
  std::string wanted_;
};

std::uint64_t whole(const toml::node& node, std::uint64_t least, std::uint64_t most) {
  const auto value = node.value_exact<std::int64_t>();
  if (!value || *value < 0 || static_cast<std::uint64_t>(*value) < least ||
      static_cast<std::uint64_t>(*value) > most) {
    throw WrongValue(fmt::format("a whole number from {} to {}", least, most));
  }
  return static_cast<std::uint64_t>(*value);
}

std::string text(const toml::node& node) {
  const auto value = node.value_exact<std::string>();
  if (!value) {
    throw WrongValue("a text");
  }
  return *value;
}

std::string one_of(const toml::node& node, const std::set<std::string>& allowed) {
  auto value = text(node);
  if (!allowed.contains(value)) {
    std::string list;
    for (const auto& word : allowed) {
      list += list.empty() ? word : ", " + word;
    }
    throw WrongValue("one of " + list);
  }
  return value;
}

std::string program_path(const toml::node& node) {
  auto value = text(node);
  if (!value.starts_with('/')) {
    throw WrongValue("the absolute path of a program");
  }
  return value;
}

/// Of a kernel's command line, which ends at 2,048 bytes; ours stand before them.
std::string kernel_words(const toml::node& node) {
  auto value = text(node);
  const auto printable = [](char c) {
    return c >= ' ' && c <= '~';
  };
  if (value.size() > 1024 || !std::all_of(value.begin(), value.end(), printable)) {
    throw WrongValue("words of a kernel's command line, at most 1024 printable characters");
  }
  return value;
}

std::string cgroup_choice(const toml::node& node) {
  auto value = text(node);
  if (value != "auto" && value != "none" && !value.starts_with('/')) {
    throw WrongValue("auto, none, or the absolute path of a control group");
  }
  return value;
}

bool truth(const toml::node& node) {
  const auto value = node.value_exact<bool>();
  if (!value) {
    throw WrongValue("true or false");
  }
  return *value;
}

std::set<std::string> texts(const toml::node& node) {
  const auto* list = node.as_array();
  if (list == nullptr) {
    throw WrongValue("a list of texts");
  }
  std::set<std::string> result;
  for (const auto& element : *list) {
    result.insert(text(element));
  }
  return result;
}

std::set<std::string> address_blocks(const toml::node& node) {
  auto blocks = texts(node);
  for (const auto& block : blocks) {
    if (!sandbox::parse_address_block(block)) {
      throw WrongValue("a list of IPv4 addresses or blocks, such as [\"10.1.0.0/16\"]");
    }
  }
  return blocks;
}

std::map<std::string, std::string> variables(const toml::node& node) {
  const auto* table = node.as_table();
  if (table == nullptr) {
    throw WrongValue("a table of texts, such as {http_proxy = \"http://proxy:3128\"}");
  }
  std::map<std::string, std::string> result;
  for (const auto& [name, value] : *table) {
    result.insert_or_assign(std::string(name.str()), text(value));
  }
  return result;
}

/// A setting's value as the text that it would be in any other level.
std::string setting_text(const toml::node& node) {
  if (const auto flag = node.value_exact<bool>()) {
    return *flag ? "true" : "false";
  }
  if (const auto number = node.value_exact<std::int64_t>()) {
    return std::to_string(*number);
  }
  if (node.is_array()) {
    std::string words;
    for (const auto& word : texts(node)) {
      words += (words.empty() ? "" : " ") + word;
    }
    return words;
  }
  return text(node);
}

/// A key of section `[settings]`.
void take_setting(Config& config,
                  std::string_view name,
                  const toml::node& node,
                  const std::string& file_name) {
  const auto line = node.source().begin.line;
  try {
    const auto& spec = setting_named(name);
    expect_level(spec, SettingLevel::System);
    const auto value = parse_setting(spec, SettingLevel::System, setting_text(node));
    config.settings.insert_or_assign(std::string(name), print_setting(spec, value));
  } catch (const WrongValue& wrong) {
    reject("config.value", file_name, line, fmt::format("'{}' must be {}", name, wrong.wanted()));
  } catch (const Error& error) {
    const bool unknown = error.code() == "settings.unknown";
    reject(unknown ? "config.unknown-key" : "config.value", file_name, line, error.message());
  }
}

constexpr std::uint64_t kMostMib = 1ULL << 30;

const std::map<std::string, std::map<std::string, Setter>>& keys() {
  using C = Config;
  using N = toml::node;
  static const std::map<std::string, std::map<std::string, Setter>> table = {
      {"builds",
       {{"cpus",
         [](C& c, const N& n) {
           c.cpus = static_cast<unsigned>(whole(n, 1, 4096));
         }},
        {"memory-mib",
         [](C& c, const N& n) {
           c.memory_bytes = whole(n, 256, kMostMib) * kMiB;
         }},
        {"build-cpus",
         [](C& c, const N& n) {
           c.build_cpus = static_cast<unsigned>(whole(n, 1, 255));
         }},
        {"build-memory-mib",
         [](C& c, const N& n) {
           c.build_memory_bytes = whole(n, 256, kMostMib) * kMiB;
         }},
        {"max-log-mib",
         [](C& c, const N& n) {
           c.max_log_bytes = whole(n, 1, kMostMib) * kMiB;
         }},
        {"keep-builds-days",
         [](C& c, const N& n) {
           c.keep_builds = std::chrono::days(whole(n, 32, 36500));
         }},
        {"keep-logs-days",
         [](C& c, const N& n) {
           c.keep_logs = std::chrono::days(whole(n, 1, 36500));
         }},
        {"kept-machines",
         [](C& c, const N& n) {
           c.kept_machines = static_cast<unsigned>(whole(n, 0, 1000));
         }},
        {"kept-minutes",
         [](C& c, const N& n) {
           c.kept_time = std::chrono::minutes(whole(n, 1, 7ULL * 24 * 60));
         }},
        {"max-output-mib",
         [](C& c, const N& n) {
           c.max_output_bytes = whole(n, 1, kMostMib) * kMiB;
         }},
        {"platforms",
         [](C& c, const N& n) {
           c.platforms = texts(n);
         }},
        {"features",
         [](C& c, const N& n) {
           c.features = texts(n);
         }},
        {"max-build-memory-mib",
         [](C& c, const N& n) {
           c.max_build_memory_bytes = whole(n, 256, kMostMib) * kMiB;
         }}}},
      {"sandbox",
       {{"accelerator",
         [](C& c, const N& n) {
           c.accelerator = one_of(n, {"auto", "kvm", "tcg"});
         }},
        {"allow-emulation",
         [](C& c, const N& n) {
           c.allow_emulation = truth(n);
         }},
        {"kernel-image",
         [](C& c, const N& n) {
           c.kernel_image = text(n);
         }},
        {"kernel-modules",
         [](C& c, const N& n) {
           c.kernel_modules = text(n);
         }},
        {"kernel-options",
         [](C& c, const N& n) {
           c.kernel_options = kernel_words(n);
         }},
        {"guest-patience-seconds",
         [](C& c, const N& n) {
           c.guest_patience = std::chrono::seconds(whole(n, 1, 86400));
         }},
        {"shell",
         [](C& c, const N& n) {
           c.shell = text(n);
         }},
        {"qemu",
         [](C& c, const N& n) {
           c.qemu = program_path(n);
         }},
        {"network-helper",
         [](C& c, const N& n) {
           c.network_helper = program_path(n);
         }},
        {"mke2fs",
         [](C& c, const N& n) {
           c.disk_maker = program_path(n);
         }},
        {"cgroup",
         [](C& c, const N& n) {
           c.cgroup = cgroup_choice(n);
         }},
        {"network",
         [](C& c, const N& n) {
           c.network = truth(n);
         }},
        {"network-allow",
         [](C& c, const N& n) {
           c.network_allow = address_blocks(n);
         }},
        {"certificates",
         [](C& c, const N& n) {
           c.certificates = text(n);
         }},
        {"netrc",
         [](C& c, const N& n) {
           c.netrc = text(n);
         }},
        {"impure-env",
         [](C& c, const N& n) {
           c.impure_env = variables(n);
         }}}},
      {"daemon",
       {{"idle-exit-seconds",
         [](C& c, const N& n) {
           c.idle_exit = std::chrono::seconds(whole(n, 1, 365ULL * 86400));
         }},
        {"stop-wait-seconds",
         [](C& c, const N& n) {
           c.stop_wait = std::chrono::seconds(whole(n, 0, 7ULL * 86400));
         }},
        {"keys-file",
         [](C& c, const N& n) {
           c.keys_file = text(n);
         }}}},
      {"sessions",
       {{"idle-seconds",
         [](C& c, const N& n) {
           c.session_idle = std::chrono::seconds(whole(n, 1, 365ULL * 86400));
         }},
        {"stalled-seconds",
         [](C& c, const N& n) {
           c.session_stalled = std::chrono::seconds(whole(n, 1, 7ULL * 86400));
         }},
        {"deaf-seconds",
         [](C& c, const N& n) {
           c.session_deaf = std::chrono::seconds(whole(n, 1, 7ULL * 86400));
         }},
        {"greeting-seconds",
         [](C& c, const N& n) {
           c.session_greeting = std::chrono::seconds(whole(n, 1, 3600));
         }},
        {"most-of-account",
         [](C& c, const N& n) {
           c.account_sessions = static_cast<unsigned>(whole(n, 0, 1'000'000));
         }},
        {"most-of-key",
         [](C& c, const N& n) {
           c.key_sessions = static_cast<unsigned>(whole(n, 0, 1'000'000));
         }}}},
      {"http",
       {{"listen",
         [](C& c, const N& n) {
           c.http_listen = text(n);
         }},
        {"allow-remote",
         [](C& c, const N& n) {
           c.http_allow_remote = truth(n);
         }},
        {"tokens",
         [](C& c, const N& n) {
           c.http_tokens = text(n);
         }}}},
      {"store",
       {{"dir",
         [](C& c, const N& n) {
           c.store_dir = text(n);
         }}}},
  };
  return table;
}

} // namespace

Config parse_config(std::string_view source, const std::string& file_name) {
  Config config;
  try {
    const toml::table root = toml::parse(source, file_name);
    for (const auto& [section, node] : root) {
      const auto known = keys().find(std::string(section.str()));
      const auto* entries = node.as_table();
      if (section.str() == "settings" && entries != nullptr) {
        for (const auto& [key, value] : *entries) {
          take_setting(config, key.str(), value, file_name);
        }
        continue;
      }
      if (known == keys().end() || entries == nullptr) {
        reject("config.unknown-key",
               file_name,
               node.source().begin.line,
               fmt::format("there is no section '{}'", section.str()));
      }
      for (const auto& [key, value] : *entries) {
        const auto setter = known->second.find(std::string(key.str()));
        if (setter == known->second.end()) {
          reject("config.unknown-key",
                 file_name,
                 value.source().begin.line,
                 fmt::format("section '{}' has no key '{}'", section.str(), key.str()));
        }
        try {
          setter->second(config, value);
        } catch (const WrongValue& wrong) {
          reject("config.value",
                 file_name,
                 value.source().begin.line,
                 fmt::format("'{}' must be {}", key.str(), wrong.wanted()));
        }
      }
    }
  } catch (const toml::parse_error& error) {
    reject("config.syntax", file_name, error.source().begin.line, std::string(error.description()));
  }
  return config;
}

Config load_config(const std::string& file_name) {
  if (file_name.empty()) {
    return {};
  }
  std::ifstream file(file_name, std::ios::binary);
  if (!file) {
    throw_system_error("config.file", "reading the configuration " + file_name);
  }
  std::ostringstream contents;
  contents << file.rdbuf();
  return parse_config(contents.str(), file_name);
}

} // namespace nixbuild::server
