#include "executor_rig.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/machine_trial.hpp>
#include <nixbuild/sandbox/runner_protocol.hpp>

#include <catch2/catch.hpp>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>

using namespace nixbuild;
using namespace nixbuild::sandbox;
using namespace nixbuild::tests;
namespace fs = std::filesystem;
namespace asio = boost::asio;

namespace {

/// Only the locks of the uid pool stay behind.
bool nothing_left(const fs::path& run_directory) {
  std::size_t count = 0;
  for (const auto& entry : fs::directory_iterator(run_directory)) {
    count += entry.path().filename().string().starts_with('.') ? 0U : 1U;
  }
  return count == 0;
}

/// The runner is the process whose working directory is the run folder.
void kill_runner_of(const fs::path& folder) {
  for (const auto& process : fs::directory_iterator("/proc")) {
    std::error_code ignored;
    if (fs::read_symlink(process.path() / "cwd", ignored) == folder) {
      ::kill(std::stoi(process.path().filename()), SIGKILL);
      return;
    }
  }
  FAIL("no runner works in " << folder);
}

aio::Task<void> good_build(Executor& executor, ExecutionPlan plan) {
  const auto execution = co_await executor.start(std::move(plan));
  const auto record = co_await follow(*execution);
  const std::vector<std::string> phases{"compose", "spawn", "boot", "mount", "build", "outputs"};
  CHECK(record.phases == phases);
  CHECK(std::is_sorted(record.phase_times.begin(), record.phase_times.end()));
  CHECK(record.log == "the builder is /bin/sh\n");
  CHECK(record.exit.code == 7);
  CHECK(record.exit.outputs.size() == 3);
  std::string expected = "first";
  expected.resize(300'000, 'x');
  const auto first = co_await collect(*execution, 0);
  CHECK((first == expected));
  try {
    co_await collect(*execution, 1);
    FAIL("a broken output was taken");
  } catch (const Error& error) {
    CHECK(error.code() == "sandbox.output");
    CHECK(error.message() == "broken is a socket");
  }
  const auto third = co_await collect(*execution, 2);
  CHECK(third.substr(0, 6) == "thirdx");
  const auto again = co_await collect(*execution, 0);
  CHECK((again == expected));
  co_await execution->finish();
  CHECK(execution->usage().peak_rss_bytes > 100'000);
}

aio::Task<void> until_exit(Executor& executor, ExecutionPlan plan) {
  const auto execution = co_await executor.start(std::move(plan));
  co_await follow(*execution);
  co_await collect(*execution, 0);
  co_await execution->finish();
}

} // namespace

TEST_CASE("executor: a build's events, exit and outputs arrive; nothing is left behind",
          "[sandbox]") {
  const ScratchFolder folder;
  asio::io_context io;
  const auto executor = make_qemu_executor(io.get_executor(), fake_settings(folder, "good"));
  CHECK(executor->accelerator() == "tcg");
  run_on(io, good_build(*executor, small_plan(folder, {"first", "broken", "third"})));
  CHECK(eventually([&] { return nothing_left(folder.path() / "run"); }));
}

TEST_CASE("executor: a guest that breaks the rules is killed and named", "[sandbox][reject]") {
  const auto check = [](const std::string& role, const std::string& code) {
    INFO(role);
    const ScratchFolder folder;
    asio::io_context io;
    const auto executor = make_qemu_executor(io.get_executor(), fake_settings(folder, role));
    CHECK(code_of(io, until_exit(*executor, small_plan(folder, {"out"}))) == code);
    CHECK(eventually([&] { return nothing_left(folder.path() / "run"); }));
  };
  // What the next machine would do here, too.
  check("panic", "sandbox.host");
  check("refused", "sandbox.host");
  check("cannot-mount", "sandbox.host");
  check("killed", "sandbox.lost");
  check("gives-up", "sandbox.lost");
  check("dies-in-output", "sandbox.lost");
  check("silent", "sandbox.lost");
  check("stalls-in-output", "sandbox.lost");
  check("garbage", "sandbox.protocol");
  check("huge-frame", "sandbox.protocol");
  check("old-version", "sandbox.protocol");
  check("exit-first", "sandbox.protocol");
  check("early-log", "sandbox.protocol");
  check("many-outputs", "sandbox.protocol");
  check("unasked-output", "sandbox.protocol");
}

TEST_CASE("executor: an emulator's last words are in the error", "[sandbox]") {
  const ScratchFolder folder;
  asio::io_context io;
  const auto executor = make_qemu_executor(io.get_executor(), fake_settings(folder, "panic"));
  try {
    run_on(io, until_exit(*executor, small_plan(folder, {"out"})));
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.message().find("Kernel panic - not syncing: role") != std::string::npos);
  }
}

TEST_CASE("executor: a trial tells of a host whose machines work, and remembers it", "[sandbox]") {
  const ScratchFolder folder;
  const auto settings = fake_settings(folder, "works");
  CHECK_FALSE(machine_is_known_to_work(settings));
  const auto trial = try_machine(settings);
  INFO(trial.reason);
  CHECK(trial.works);
  CHECK(trial.accelerator == Accelerator::Tcg);
  CHECK(machine_is_known_to_work(settings));
  // Nothing of the machine is left but a note of its walls.
  for (const auto& entry : fs::directory_iterator(settings.run_directory)) {
    CHECK(entry.is_regular_file());
  }
  // Of this kernel and these programs, not of others.
  auto other = settings;
  other.guest = RUNNER_PATH;
  CHECK_FALSE(machine_is_known_to_work(other));
}

TEST_CASE("executor: a trial names what keeps machines from working", "[sandbox][reject]") {
  const std::pair<const char*, const char*> cases[] = {
      {"cannot-mount", "mounting erofs on '/inputs': No such device"},
      {"refused", "Could not access KVM kernel module: Permission denied"},
      {"panic", "Kernel panic - not syncing"},
      {"good", "ended with 7"},
      {"silent", "did not answer within 3 s"},
  };
  for (const auto& [role, words] : cases) {
    INFO(role);
    const ScratchFolder folder;
    auto settings = fake_settings(folder, role);
    const auto trial = try_machine(settings);
    CHECK_FALSE(trial.works);
    CHECK(trial.reason.find(words) != std::string::npos);
    CHECK_FALSE(machine_is_known_to_work(settings));
    asio::io_context io;
    const auto executor = make_qemu_executor(io.get_executor(), settings);
    const auto verdict = executor->host_failed("one was lost");
    CHECK(verdict.use == HostVerdict::Use::Nothing);
    CHECK(verdict.reason.find(words) != std::string::npos);
  }
  const ScratchFolder folder;
  asio::io_context io;
  const auto executor = make_qemu_executor(io.get_executor(), fake_settings(folder, "works"));
  CHECK(executor->host_failed("one was lost").use == HostVerdict::Use::AsBefore);
}

TEST_CASE("executor: a log beyond its limit ends the build", "[sandbox][reject]") {
  const ScratchFolder folder;
  asio::io_context io;
  auto settings = fake_settings(folder, "endless-log");
  settings.log_limit_bytes = 5 * kMiB;
  const auto executor = make_qemu_executor(io.get_executor(), std::move(settings));
  CHECK(code_of(io, until_exit(*executor, small_plan(folder, {"out"}))) == "sandbox.log-limit");
}

namespace {

aio::Task<void> slow_reader(Executor& executor, ExecutionPlan plan, fs::path log) {
  const auto execution = co_await executor.start(std::move(plan));
  // Nobody asks: the guest must block long before its 20 MB are in the file.
  std::uintmax_t size = 0;
  std::uintmax_t before = 1;
  CHECK(eventually([&] {
    before = std::exchange(size, fs::exists(log) ? fs::file_size(log) : 0);
    return size > 0 && size == before;
  }));
  CHECK(size < 4 * kMiB);
  const auto record = co_await follow(*execution);
  CHECK(record.log.size() >= 20'000'000);
  CHECK(record.log.size() == record.exit.log_bytes);
  co_await execution->finish();
}

aio::Task<void> cancelled_build(Executor& executor, ExecutionPlan plan) {
  const auto execution = co_await executor.start(std::move(plan));
  execution->cancel();
  try {
    co_await follow(*execution);
    FAIL("not cancelled");
  } catch (const Error& error) {
    CHECK(error.code() == "sandbox.cancelled");
    CHECK(error.reaction() == Reaction::Cancelled);
  }
}

aio::Task<void> dropped_build(Executor& executor, ExecutionPlan plan) {
  const auto execution = co_await executor.start(std::move(plan));
}

aio::Task<void> large_output(Executor& executor, ExecutionPlan plan) {
  const auto execution = co_await executor.start(std::move(plan));
  co_await follow(*execution);
  const auto output = co_await collect(*execution, 0);
  CHECK(output.size() == 50'000'000);
  co_await execution->finish();
}

} // namespace

TEST_CASE("executor: a log that nobody reads blocks the guest", "[sandbox]") {
  const ScratchFolder folder;
  asio::io_context io;
  const auto executor = make_qemu_executor(io.get_executor(), fake_settings(folder, "verbose"));
  const auto log = folder.path() / "run/test-1/log";
  run_on(io, slow_reader(*executor, small_plan(folder, {"out"}), log));
}

TEST_CASE("executor: large outputs come whole", "[sandbox]") {
  const ScratchFolder folder;
  asio::io_context io;
  const auto executor =
      make_qemu_executor(io.get_executor(), fake_settings(folder, "large-output"));
  run_on(io, large_output(*executor, small_plan(folder, {"out"})));
}

TEST_CASE("executor: cancelling and dropping a build kill it", "[sandbox]") {
  for (const bool cancel : {true, false}) {
    const ScratchFolder folder;
    asio::io_context io;
    const auto executor = make_qemu_executor(io.get_executor(), fake_settings(folder, "silent"));
    run_on(io,
           cancel ? cancelled_build(*executor, small_plan(folder, {"out"}))
                  : dropped_build(*executor, small_plan(folder, {"out"})));
    CHECK(eventually([&] { return nothing_left(folder.path() / "run"); }));
  }
}

TEST_CASE("executor: bad plans are refused at the start", "[sandbox][reject]") {
  const ScratchFolder folder;
  asio::io_context io;
  const auto executor = make_qemu_executor(io.get_executor(), fake_settings(folder, "good"));
  int attempts = 0;
  const auto code = [&](auto change) {
    auto plan = small_plan(folder, {"out"});
    plan.id = "attempt-" + std::to_string(++attempts);
    change(plan);
    return code_of(io, until_exit(*executor, std::move(plan)));
  };
  CHECK(code([](ExecutionPlan& plan) { plan.id = "../x"; }) == "sandbox.spawn");
  CHECK(code([](ExecutionPlan& plan) { plan.id.clear(); }) == "sandbox.spawn");
  CHECK(code([](ExecutionPlan& plan) { plan.disk[0].length = 8192; }) == "sandbox.disk");
  CHECK(code([](ExecutionPlan& plan) { plan.memory_bytes = 1; }) == "sandbox.machine");
  CHECK(code([](ExecutionPlan& plan) { plan.disk.clear(); }) == "sandbox.disk");
  fs::create_directory(folder.path() / "run/in-use");
  CHECK(code([](ExecutionPlan& plan) { plan.id = "in-use"; }) == "sandbox.spawn");
}

TEST_CASE("executor: missing programs are named", "[sandbox][reject]") {
  const ScratchFolder folder;
  asio::io_context io;
  auto settings = fake_settings(folder, "good");
  settings.qemu = "/does/not/exist";
  CHECK_THROWS_AS(make_qemu_executor(io.get_executor(), std::move(settings)), Error);
}

namespace {

/// A daemon that has come back: connects to the runner's socket.
class Reattached {
public:
  explicit Reattached(const fs::path& socket)
      : socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, socket.c_str(), sizeof address.sun_path - 1);
    REQUIRE(::connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  }

  void say(const runner::Message& message) {
    const auto frame = runner::encode(message);
    REQUIRE(::send(socket_.get(), frame.data(), frame.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(frame.size()));
  }

  runner::Message hear() {
    for (;;) {
      if (auto message = decoder_.next()) {
        return std::move(*message);
      }
      std::uint8_t buffer[4096];
      const auto got = ::recv(socket_.get(), buffer, sizeof buffer, 0);
      REQUIRE(got > 0);
      decoder_.feed(ByteView(buffer, static_cast<std::size_t>(got)));
    }
  }

private:
  UniqueFd socket_;
  runner::Decoder decoder_;
};

} // namespace

TEST_CASE("executor: another daemon attaches, gets log, exit and outputs again", "[sandbox]") {
  const ScratchFolder folder;
  asio::io_context io;
  const auto executor = make_qemu_executor(io.get_executor(), fake_settings(folder, "good"));
  std::unique_ptr<Execution> first;
  asio::co_spawn(io,
                 executor->start(small_plan(folder, {"out"})),
                 [&](std::exception_ptr error, std::unique_ptr<Execution> execution) {
                   REQUIRE_FALSE(error);
                   first = std::move(execution);
                 });
  io.run();
  const auto socket = folder.path() / "run/test-1/runner.sock";
  {
    Reattached early(socket);
    early.say(runner::Attach{0});
    while (!std::holds_alternative<runner::Exited>(early.hear())) {
    }
  } // dies without a word: the runner waits for another one
  Reattached daemon(socket);
  daemon.say(runner::Attach{4});
  std::vector<std::string> phases;
  std::string log;
  for (;;) {
    auto message = daemon.hear();
    if (const auto* phase = std::get_if<runner::Phase>(&message)) {
      phases.push_back(phase->name);
    } else if (const auto* data = std::get_if<runner::LogData>(&message)) {
      CHECK(data->offset == 4 + log.size());
      log += data->bytes;
    } else if (!std::holds_alternative<runner::Measured>(message)) {
      CHECK(std::holds_alternative<runner::Exited>(message));
      break;
    }
  }
  CHECK(log == "builder is /bin/sh\n");
  CHECK(phases.size() == 6);
  daemon.say(runner::Output{0});
  std::size_t size = 0;
  for (;;) {
    const auto message = daemon.hear();
    if (const auto* data = std::get_if<runner::OutputData>(&message)) {
      size += data->bytes.size();
    } else {
      CHECK(std::holds_alternative<runner::OutputEnd>(message));
      break;
    }
  }
  CHECK(size == 300'000);
  daemon.say(runner::Finish{});
  for (;;) {
    const auto message = daemon.hear();
    if (const auto* down = std::get_if<runner::Down>(&message)) {
      CHECK(down->peak_rss_bytes > 100'000);
      break;
    }
  }
  CHECK(eventually([&] { return nothing_left(folder.path() / "run"); }));
}

namespace {

/// What is done with a build that another daemon has started.
aio::Task<void> adopt_and_collect(Executor& executor, std::uint64_t log_offset, Record& record) {
  auto execution = co_await executor.adopt("test-1", 1, log_offset);
  REQUIRE(execution);
  record = co_await follow(*execution);
  const auto output = co_await collect(*execution, 0);
  CHECK(output.size() == 300'000);
  co_await execution->finish();
}

aio::Task<void> adopt_nothing(Executor& executor, std::string id) {
  const auto execution = co_await executor.adopt(std::move(id), 1, 0);
  CHECK_FALSE(execution);
}

aio::Task<void> start_and_detach(Executor& executor, ExecutionPlan plan) {
  const auto execution = co_await executor.start(std::move(plan));
  execution->detach();
  try {
    // What had come before is still told.
    for (int i = 0; i < 10; ++i) {
      co_await execution->next_event();
    }
    FAIL("still attached");
  } catch (const Error& error) {
    CHECK(error.code() == "sandbox.cancelled");
  }
}

aio::Task<void> sweep(Executor& executor, std::vector<std::string> kept) {
  co_await executor.sweep(std::move(kept));
}

} // namespace

TEST_CASE("executor: a detached build is adopted by another daemon, any number of times",
          "[sandbox]") {
  const ScratchFolder folder;
  asio::io_context io;
  {
    auto settings = fake_settings(folder, "good");
    settings.grace = std::chrono::seconds(60);
    const auto executor = make_qemu_executor(io.get_executor(), std::move(settings));
    run_on(io, start_and_detach(*executor, small_plan(folder, {"out"})));
  }
  const auto executor = make_qemu_executor(io.get_executor(), fake_settings(folder, "good"));
  run_on(io, sweep(*executor, {"test-1"}));
  Record record;
  run_on(io, adopt_and_collect(*executor, 4, record));
  CHECK(record.log == "builder is /bin/sh\n");
  CHECK(record.phases.size() == 6);
  CHECK(record.exit.code == 7);
  CHECK(eventually([&] { return nothing_left(folder.path() / "run"); }));
  run_on(io, adopt_nothing(*executor, "test-1"));
}

TEST_CASE("executor: what earlier daemons left behind and nobody wants is removed", "[sandbox]") {
  const ScratchFolder folder;
  asio::io_context io;
  {
    const auto executor = make_qemu_executor(io.get_executor(), fake_settings(folder, "silent"));
    run_on(io, start_and_detach(*executor, small_plan(folder, {"out"})));
  }
  fs::create_directory(folder.path() / "run/5-1");
  std::ofstream(folder.path() / "run/5-1/log") << "old";
  fs::create_directory(folder.path() / "run/6-1");
  const auto executor = make_qemu_executor(io.get_executor(), fake_settings(folder, "silent"));
  fs::create_directory(folder.path() / "run/7-1"); // of this daemon
  run_on(io, sweep(*executor, {"6-1"}));
  CHECK_FALSE(fs::exists(folder.path() / "run/5-1"));
  CHECK(fs::exists(folder.path() / "run/6-1"));
  CHECK(fs::exists(folder.path() / "run/7-1"));
  CHECK(eventually([&] { return !fs::exists(folder.path() / "run/test-1"); }));
  // Kept, but its runner is gone: adopting it says so and clears it away.
  run_on(io, adopt_nothing(*executor, "6-1"));
  CHECK_FALSE(fs::exists(folder.path() / "run/6-1"));
  CHECK(code_of(io, adopt_nothing(*executor, "../x")) == "sandbox.spawn");
}

namespace {

/// Kills the runner while the build goes on, and sees it lost.
aio::Task<void> lose_runner(Executor& executor, ExecutionPlan plan, fs::path folder) {
  const auto execution = co_await executor.start(std::move(plan));
  kill_runner_of(folder);
  co_await follow(*execution);
}

aio::Task<void> follow_patiently(Executor& executor, ExecutionPlan plan, Record& record) {
  const auto execution = co_await executor.start(std::move(plan));
  record = co_await follow(*execution);
  co_await execution->finish();
}

} // namespace

TEST_CASE("executor: what a killed runner leaves is removed by the daemon that runs", "[sandbox]") {
  const ScratchFolder folder;
  asio::io_context io;
  const auto executor = make_qemu_executor(io.get_executor(), fake_settings(folder, "silent"));
  const auto run = folder.path() / "run";
  CHECK(code_of(io, lose_runner(*executor, small_plan(folder, {"out"}), run / "test-1")) ==
        "sandbox.lost");
  CHECK(eventually([&] { return nothing_left(run); }));
}

TEST_CASE("executor: a network that ends is told in the log of the build", "[sandbox]") {
  const ScratchFolder folder;
  asio::io_context io;
  auto settings = fake_settings(folder, "patient");
  settings.network_helper = folder.path() / "passt";
  std::ofstream(settings.network_helper) << "#!/bin/sh\nsleep 0.5\nexit 3\n";
  fs::permissions(settings.network_helper, fs::perms::owner_all);
  const auto executor = make_qemu_executor(io.get_executor(), std::move(settings));
  auto plan = small_plan(folder, {"out"});
  plan.job.network = true;
  Record record;
  run_on(io, follow_patiently(*executor, std::move(plan), record));
  CHECK(record.log.starts_with("half a line\n[nixbuild] the network of this machine is gone: "));
  CHECK(record.log.find("passt ended with status 3") != std::string::npos);
}

TEST_CASE("executor: an initramfs that was changed is not booted, and made anew",
          "[sandbox][reject]") {
  const ScratchFolder folder;
  asio::io_context io;
  const auto change = [&] {
    for (const auto& file : fs::recursive_directory_iterator(folder.path() / "kernels")) {
      if (file.path().filename().string().starts_with("initramfs-")) {
        fs::permissions(file.path(), fs::perms::owner_all);
        std::fstream(file.path(), std::ios::in | std::ios::out | std::ios::binary) << "taken over";
      }
    }
  };
  const auto executor = make_qemu_executor(io.get_executor(), fake_settings(folder, "good"));
  change(); // as large as before
  auto plan = small_plan(folder, {"out"});
  CHECK(code_of(io, until_exit(*executor, std::move(plan))) == "sandbox.kernel-cache");
  CHECK(nothing_left(folder.path() / "run"));
  const auto next = make_qemu_executor(io.get_executor(), fake_settings(folder, "good"));
  auto again = small_plan(folder, {"out"});
  CHECK(code_of(io, until_exit(*next, std::move(again))) == "none");
}

TEST_CASE("executor: a runner whose daemon never comes back ends by itself", "[sandbox]") {
  const ScratchFolder folder;
  asio::io_context io;
  auto settings = fake_settings(folder, "silent");
  settings.guest_patience = std::chrono::seconds(600);
  settings.alone = std::chrono::seconds(1);
  const auto executor = make_qemu_executor(io.get_executor(), std::move(settings));
  run_on(io, start_and_detach(*executor, small_plan(folder, {"out"})));
  CHECK(fs::exists(folder.path() / "run/test-1"));
  CHECK(eventually([&] { return nothing_left(folder.path() / "run"); }));
}
