#include "here.hpp"
#include "server/admin_text.hpp"

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/model/derivation.hpp>
#include <nixbuild/protocol/serve.hpp>
#include <nixbuild/server/config.hpp>
#include <nixbuild/server/handoff.hpp>

#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

namespace nixbuild::tool {

namespace fs = std::filesystem;
namespace json = boost::json;
namespace serve = protocol::serve;

namespace {

constexpr std::uint64_t kDerivationBytes = 64 * kMiB;

model::Derivation read_derivation(const model::StoreDir& dir, const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) {
    throw_system_error("run.derivation", "reading " + file.string());
  }
  std::ostringstream text;
  text << stream.rdbuf();
  if (text.view().size() > kDerivationBytes) {
    throw Error(Reaction::Reject,
                "run.derivation",
                fmt::format("{} has more than {} MiB", file.string(), kDerivationBytes / kMiB));
  }
  try {
    return model::parse_derivation(dir, text.view());
  } catch (Error& error) {
    throw error.add_context(file.string());
  }
}

/// Replaces input derivations by the outputs that are used of them, as a Nix client does before it
/// asks for a build.
void resolve_inputs(const model::StoreDir& dir,
                    const fs::path& folder,
                    model::Derivation& derivation) {
  for (const auto& [input, outputs] : derivation.input_derivations) {
    auto file = folder / input.base_name();
    if (!fs::exists(file)) {
      file = dir.print(input);
    }
    if (!fs::exists(file)) {
      throw Error(Reaction::NotFound,
                  "run.input-derivation",
                  fmt::format("the input derivation {} lies neither in {} nor in {}",
                              input.base_name(),
                              folder.string(),
                              dir.text()));
    }
    const auto known = read_derivation(dir, file);
    for (const auto& output : outputs) {
      const auto found = known.outputs.find(output);
      if (found == known.outputs.end() || !found->second.path) {
        throw Error(Reaction::Unsupported,
                    "run.input-output",
                    fmt::format("the path of output '{}' of {} is not known before it is built",
                                output,
                                input.base_name()));
      }
      derivation.input_sources.push_back(*found->second.path);
    }
  }
  model::sort_unique(derivation.input_sources);
}

/// A serve session with the daemon, as a Nix client has one.
class Session {
private:
  static void place(int fd) {
    for (const int target : {STDIN_FILENO, STDOUT_FILENO}) {
      system_call("run.session", "placing a socket", [&] { return ::dup2(fd, target); });
    }
  }

  /// Calls a system call on the socket; its end is the end of the session, which the daemon has
  /// explained on standard error. Its status says what kind of failure it was.
  template <class Call>
  std::size_t transfer(Call call) {
    const auto count = call();
    if (count > 0) {
      return static_cast<std::size_t>(count);
    }
    if (count < 0 && errno == EINTR) {
      return 0;
    }
    if (count < 0 && errno != EPIPE && errno != ECONNRESET) {
      throw_system_error("run.session", "talking to the daemon");
    }
    ended_with_ = end();
    throw Error(Reaction::Disconnected, "run.session", "the daemon ended the session");
  }

  void send(std::string_view bytes) {
    while (!bytes.empty()) {
      bytes.remove_prefix(
          transfer([&] { return ::send(own_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL); }));
    }
  }

  template <class Read>
  auto wait(Read read) -> std::decay_t<decltype(*read())> {
    std::array<std::uint8_t, 16 * 1024> buffer{};
    for (;;) {
      if (auto value = read()) {
        return std::move(*value);
      }
      const auto count =
          transfer([&] { return ::recv(own_.get(), buffer.data(), buffer.size(), 0); });
      replies_.feed(ByteView(buffer).first(count));
    }
  }

public:
  Session(const Globals& globals, const model::StoreDir& dir)
      : dir_(dir), replies_(dir), standard_output_(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)) {
    int ends[2] = {-1, -1};
    system_call("run.session", "making a pair of sockets", [&] {
      return ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends);
    });
    own_ = UniqueFd(ends[0]);
    UniqueFd given(ends[1]);
    place(given.get());
    server::Handoff handoff;
    handoff.write = true;
    handoff.account = globals.account;
    constexpr int attempts = 3;
    for (int attempt = 1;; ++attempt) {
      daemon_ = server::reach_daemon(globals.state_dir, globals.config, globals.autostart);
      server::send_handoff(daemon_, handoff);
      if (server::wait_for_acceptance(daemon_)) {
        break;
      }
      if (attempt == attempts) {
        throw Error(Reaction::Internal, "daemon.lost", "the daemon ended before it took the build");
      }
    }
    // The daemon's end must be the only one, or its death would not be seen.
    given.reset();
    const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    place(null.get());
    ::dup2(standard_output_.get(), STDOUT_FILENO);
  }

  void greet() {
    std::string hello;
    serve::write_client_hello(hello);
    send(hello);
    version_ = wait([&] { return replies_.read_hello(); });
  }

  model::StorePaths valid_paths(model::StorePaths paths) {
    std::string bytes;
    serve::write_request(
        bytes, dir_, version_, serve::QueryValidPaths{true, false, std::move(paths)});
    send(bytes);
    return wait([&] { return replies_.read_paths(); });
  }

  model::BuildResult build(serve::BuildDerivation request) {
    std::string bytes;
    serve::write_request(bytes, dir_, version_, std::move(request));
    send(bytes);
    return wait([&] { return replies_.read_build_result(); });
  }

  /// Says goodbye and waits for the daemon's status.
  int end() {
    own_.reset();
    return server::wait_for_exit_status(daemon_);
  }

  /// Set when the daemon ended the session by itself.
  [[nodiscard]] const std::optional<int>& ended_with() const noexcept { return ended_with_; }

private:
  const model::StoreDir& dir_;
  serve::ReplyReader replies_;
  UniqueFd standard_output_;
  UniqueFd own_;
  UniqueFd daemon_;
  protocol::Version version_ = serve::kOldestVersion;
  std::optional<int> ended_with_;
};

void expect_inputs(Session& session,
                   const Globals& globals,
                   const model::StoreDir& dir,
                   const model::StorePaths& inputs) {
  const auto valid = session.valid_paths(inputs);
  const model::StorePathSet known(valid.begin(), valid.end());
  for (const auto& input : inputs) {
    if (!known.contains(input)) {
      const auto path = dir.print(input);
      throw Error(
          Reaction::NotFound,
          "run.missing-input",
          fmt::format(
              "the input {} is not in the store of account '{}' ({} of {} are missing); "
              "bring it there: nix copy --to 'ssh://localhost?remote-program=nixbuild-serve' {}",
              path,
              globals.account,
              inputs.size() - valid.size(),
              inputs.size(),
              path));
    }
  }
}

int report(const model::StoreDir& dir, const model::BuildResult& result, bool as_json) {
  const bool success = model::is_success(result.status);
  if (as_json) {
    json::object outputs;
    for (const auto& [name, output] : result.outputs) {
      outputs[name] = dir.print(output.path);
    }
    print(json::serialize(json::object{{"status", model::name_of(result.status)},
                                       {"success", success},
                                       {"error", result.error},
                                       {"started", server::iso_time(result.start_time)},
                                       {"stopped", server::iso_time(result.stop_time)},
                                       {"outputs", std::move(outputs)}}) +
          "\n");
  } else if (success) {
    for (const auto& [name, output] : result.outputs) {
      print(dir.print(output.path) + "\n");
    }
  }
  if (!success) {
    std::fprintf(stderr,
                 "error: the build failed (%.*s): %s\n",
                 static_cast<int>(model::name_of(result.status).size()),
                 model::name_of(result.status).data(),
                 result.error.c_str());
  }
  if (result.status == model::BuildStatus::TimedOut) {
    return exit_code_of(Reaction::Timeout);
  }
  return success ? 0 : 1;
}

/// The derivation's store path: the file's own name when it is one, else computed from the text.
model::StorePath
path_of(const model::StoreDir& dir, const fs::path& file, const model::Derivation& derivation) {
  const auto base = file.filename().string();
  try {
    return model::StorePath::parse(base);
  } catch (const Error&) {
    const auto name = derivation.environment.find("name");
    const auto stem = base.ends_with(".drv") ? base.substr(0, base.size() - 4) : base;
    return model::derivation_path(
        dir, name == derivation.environment.end() ? stem : name->second, derivation);
  }
}

} // namespace

int run_derivation(const Globals& globals, const server::Command& command) {
  ::signal(SIGPIPE, SIG_IGN);
  const auto config = server::load_config(globals.config);
  const model::StoreDir dir(config.store_dir);
  const auto file = fs::absolute(command.arguments.at(0));
  auto derivation = read_derivation(dir, file);
  const auto path = path_of(dir, file, derivation);
  resolve_inputs(dir, file.parent_path(), derivation);

  serve::BuildDerivation request{path, derivation, {}};
  request.options.timeout = std::chrono::seconds(command.number("--timeout", 0));
  request.options.max_silent_time = std::chrono::seconds(command.number("--max-silent-time", 0));
  Session session(globals, dir);
  try {
    session.greet();
    expect_inputs(session, globals, dir, derivation.input_sources);
    const auto result = session.build(std::move(request));
    session.end();
    return report(dir, result, command.has("--json"));
  } catch (const Error&) {
    if (session.ended_with()) {
      return *session.ended_with() != 0 ? *session.ended_with() : 70;
    }
    throw;
  }
}

} // namespace nixbuild::tool
