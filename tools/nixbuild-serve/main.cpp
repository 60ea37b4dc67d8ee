// nixbuild-serve: the ForceCommand. Names the account and the protocol, hands its descriptors to
// the daemon and waits for the exit status. Parses no byte of the client.

#include <nixbuild/base/error.hpp>
#include <nixbuild/base/private_files.hpp>
#include <nixbuild/server/command_words.hpp>
#include <nixbuild/server/handoff.hpp>

#include <unistd.h>

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

extern char** environ;

namespace {

constexpr std::string_view kUsage =
    R"(Usage: nixbuild-serve [--state-dir DIR] [--config FILE] [--account NAME] [--key ID]
                      [--no-autostart]
       nixbuild-serve [OPTIONS] --serve [--write] | --stdio

Serves one Nix client. As an SSH forced command it looks at SSH_ORIGINAL_COMMAND:
    … nix-store --serve [--write]    the serve protocol (ssh://)
    … nix-daemon --stdio             the worker protocol (ssh-ng://)
    shell | api … | nixbuild …       administration, limited to the account
Called directly, --serve or --stdio choose the protocol.

In authorized_keys, one line is all:
    restrict,pty,command="nixbuild-serve --account NAME" ssh-ed25519 AAAA… comment
With --key ID the session has that key's permissions and settings (nixbuild key add).
)";

struct Options {
  std::string state_dir;
  std::string config;
  std::string account = "default";
  std::int64_t key = 0;
  bool autostart = true;
  std::vector<std::string> words; ///< what asks for a protocol
};

[[noreturn]] void usage_error(const std::string& message) {
  std::fprintf(
      stderr, "error: %s\n%.*s", message.c_str(), static_cast<int>(kUsage.size()), kUsage.data());
  std::exit(2);
}

std::int64_t key_number(const std::string& text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number <= 0) {
    usage_error("--key needs the number of a key, not '" + text + "'");
  }
  return number;
}

Options parse_options(int argc, char** argv) {
  Options options;
  const auto value_of = [&](int& i, std::string_view name) -> std::string {
    const std::string_view word = argv[i];
    if (word.size() > name.size() && word[name.size()] == '=') {
      return std::string(word.substr(name.size() + 1));
    }
    if (i + 1 >= argc) {
      usage_error(std::string(name) + " needs a value");
    }
    return argv[++i];
  };
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    const auto name = word.substr(0, word.find('='));
    if (name == "--state-dir") {
      options.state_dir = value_of(i, name);
    } else if (name == "--config") {
      options.config = value_of(i, name);
    } else if (name == "--account") {
      options.account = value_of(i, name);
    } else if (name == "--key") {
      options.key = key_number(value_of(i, name));
    } else if (word == "--no-autostart") {
      options.autostart = false;
    } else if (word == "--help" || word == "-h") {
      std::fwrite(kUsage.data(), 1, kUsage.size(), stdout);
      std::exit(0);
    } else {
      // The client's own words begin here (--serve --write, --stdio, and what it adds to them).
      options.words.assign(argv + i, argv + argc);
      break;
    }
  }
  return options;
}

std::vector<std::string> forwarded_environment() {
  std::vector<std::string> variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (std::strncmp(*entry, "NIXBUILD", 8) == 0) {
      variables.emplace_back(*entry);
    }
  }
  return variables;
}

} // namespace

/// Over SSH the environment is the client's wherever sshd takes NIXBUILD_* from it (AcceptEnv),
/// whatever this program was started with: settings are its to choose, the server's folder and
/// configuration are not.
void forget_places_of_clients() {
  if (std::getenv("SSH_CONNECTION") == nullptr && std::getenv("SSH_CLIENT") == nullptr &&
      std::getenv("SSH_ORIGINAL_COMMAND") == nullptr) {
    return;
  }
  ::unsetenv("NIXBUILD_STATE_DIR");
  ::unsetenv("NIXBUILD_CONFIG");
}

int main(int argc, char** argv) {
  nixbuild::make_files_private();
  auto options = parse_options(argc, argv);
  forget_places_of_clients();
  bool over_ssh = false;
  if (options.words.empty()) {
    if (const char* command = std::getenv("SSH_ORIGINAL_COMMAND")) {
      options.words = nixbuild::server::split_words(command);
      over_ssh = true;
    }
  }
  try {
    if (options.words.empty() && std::getenv("SSH_CONNECTION") == nullptr) {
      usage_error("nothing asks for a protocol: this is a forced command for Nix clients");
    }
    auto handoff = nixbuild::server::read_client_words(options.words, over_ssh);
    handoff.account = options.account;
    handoff.key = options.key;
    handoff.environment = forwarded_environment();
    const auto state_dir = nixbuild::server::find_state_dir(options.state_dir);
    return nixbuild::server::run_through_daemon(
        state_dir, options.config, options.autostart, handoff);
  } catch (const nixbuild::Error& error) {
    // A user can do nothing about the daemon; who can should be told this.
    const bool daemon =
        over_ssh && (error.code().starts_with("daemon.") || error.code().starts_with("program."));
    std::fprintf(stderr,
                 "error: %s%s\n",
                 daemon ? "this builder does not run; its administrator will want to know: " : "",
                 error.what());
    return error.code() == "front.command" ? 2 : nixbuild::exit_code_of(error.reaction());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 70;
  }
}
