#pragma once

#include "support/fake_executor.hpp"
#include "support/scratch_folder.hpp"
#include "support/watched_metadata.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/server/daemon.hpp>
#include <nixbuild/server/handoff.hpp>

#include <catch2/catch.hpp>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

/// A whole daemon in this process, with somebody at the door of its ports.

namespace daemon_test {

using namespace nixbuild;
using namespace std::chrono_literals;
using server::Handoff;
using server::HandoffKind;

/// Lets calls pass, makes the next ones of a name fail, or holds all of a name back.
class Doorkeeper {
public:
  void pass(std::string_view call) {
    std::unique_lock lock(mutex_);
    const std::string name(call);
    ++seen_[name];
    changed_.notify_all();
    changed_.wait(lock, [&] { return !held_.contains(name); });
    if (auto left = failing_.find(name); left != failing_.end() && left->second > 0) {
      --left->second;
      const int kind = kind_++ % 3;
      if (kind == 0) {
        throw Error(Reaction::Internal, "test.fault", "broken: " + name);
      }
      if (kind == 1) {
        throw std::runtime_error("broken: " + name);
      }
      throw 7;
    }
  }

  void fail(const std::string& name, int times) {
    const std::lock_guard lock(mutex_);
    failing_[name] = times;
  }

  [[nodiscard]] bool has_failed(const std::string& name) {
    const std::lock_guard lock(mutex_);
    return failing_[name] == 0;
  }

  void hold(const std::string& name) {
    const std::lock_guard lock(mutex_);
    held_.insert(name);
    seen_[name] = 0;
  }

  void release(const std::string& name) {
    const std::lock_guard lock(mutex_);
    held_.erase(name);
    changed_.notify_all();
  }

  [[nodiscard]] int count_of(const std::string& name) {
    const std::lock_guard lock(mutex_);
    return seen_[name];
  }

  [[nodiscard]] bool wait_for(const std::string& name) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 10s, [&] { return seen_[name] > 0; });
  }

private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, int> failing_;
  std::map<std::string, int> seen_;
  std::set<std::string> held_;
  int kind_ = 0;
};

/// Can be set, and can fail.
class DoorClock final : public Clock {
public:
  explicit DoorClock(Doorkeeper& door) : door_(door) {}

  [[nodiscard]] WallTime wall() const override {
    door_.pass("clock wall");
    return std::chrono::time_point_cast<std::chrono::microseconds>(
               std::chrono::system_clock::now()) +
           ahead.load();
  }

  [[nodiscard]] MonotonicTime monotonic() const override {
    door_.pass("clock monotonic");
    return std::chrono::steady_clock::now();
  }

  std::atomic<std::chrono::hours> ahead{0h};

private:
  Doorkeeper& door_;
};

class DoorLogs final : public store::LogStore {
public:
  DoorLogs(std::unique_ptr<store::LogStore> inner, Doorkeeper& door)
      : inner_(std::move(inner)), door_(door) {}

  void append(std::int64_t build, ByteView bytes) override { inner_->append(build, bytes); }

  void finish(std::int64_t build) override { inner_->finish(build); }

  std::optional<std::string>
  read(std::int64_t build, std::uint64_t offset, std::size_t limit) override {
    return inner_->read(build, offset, limit);
  }

  std::uint64_t size(std::int64_t build) override { return inner_->size(build); }

  bool finished(std::int64_t build) override { return inner_->finished(build); }

  std::size_t remove_finished_before(WallTime time) override {
    door_.pass("remove_finished_before");
    return inner_->remove_finished_before(time);
  }

private:
  std::unique_ptr<store::LogStore> inner_;
  Doorkeeper& door_;
};

struct Rig {
  tests::ScratchFolder scratch;
  Doorkeeper door;
  DoorClock clock{door};
  NullLog log;
  std::string state_dir = scratch.path() / "state";
  std::unique_ptr<server::Daemon> daemon;
  std::thread loop;
  int status = -1;

  server::DaemonSettings settings() {
    server::DaemonSettings settings;
    settings.state_dir = state_dir;
    settings.threads = 2;
    settings.config.keep_builds = std::chrono::days(30);
    settings.config.http_listen = "unix:" + (scratch.path() / "http").string();
    settings.pace.tick = settings.pace.sync = settings.pace.machine = settings.pace.usage =
        settings.pace.forget = 3ms;
    settings.pace.stop_patience = 200ms;
    settings.ports.clock = &clock;
    settings.ports.metadata = [this](std::unique_ptr<store::MetadataDb> inner) {
      return std::make_unique<tests::WatchedMetadata>(
          std::move(inner), [this](std::string_view call) { door.pass(call); });
    };
    settings.ports.logs = [this](std::unique_ptr<store::LogStore> inner) {
      return std::make_unique<DoorLogs>(std::move(inner), door);
    };
    return settings;
  }

  void start(server::DaemonSettings with) {
    daemon.reset();
    server::ExecutorFactory factory = [](boost::asio::any_io_executor executor) {
      const auto script = [](const sandbox::ExecutionPlan&) {
        return tests::FakeBuild();
      };
      return std::make_unique<tests::FakeExecutor>(executor, script);
    };
    daemon = std::make_unique<server::Daemon>(std::move(with), factory, log);
    loop = std::thread([this] { status = daemon->run(); });
  }

  void start() { start(settings()); }

  void end() {
    if (loop.joinable()) {
      daemon->stop();
      loop.join();
    }
    daemon.reset();
  }

  ~Rig() { end(); }

  [[nodiscard]] std::map<std::string, std::uint64_t> turns() const {
    std::map<std::string, std::uint64_t> result;
    for (const auto& loop_of_daemon : daemon->loops()) {
      result[loop_of_daemon.name] = loop_of_daemon.turns;
    }
    return result;
  }
};

inline bool eventually(const std::function<bool()>& what) {
  for (int i = 0; i < 2000; ++i) {
    if (what()) {
      return true;
    }
    std::this_thread::sleep_for(5ms);
  }
  return false;
}

/// A client's session, as sshd's program hands it over.
struct Client {
  std::array<UniqueFd, 3> mine;   ///< its input, its output, its complaints
  std::array<UniqueFd, 3> theirs; ///< the daemon's ends
  std::optional<UniqueFd> daemon;

  Client() {
    for (std::size_t i = 0; i < 3; ++i) {
      int ends[2] = {-1, -1};
      REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
      mine[i].reset(ends[i == 0 ? 1 : 0]);
      theirs[i].reset(ends[i == 0 ? 0 : 1]);
    }
  }

  void hand_over(const std::string& state_dir, const Handoff& handoff) {
    daemon = server::connect_to_daemon(state_dir);
    if (!daemon) {
      throw std::runtime_error("no daemon listens");
    }
    server::send_handoff(*daemon, handoff, {theirs[0].get(), theirs[1].get(), theirs[2].get()});
    theirs = {};
  }

  [[nodiscard]] bool accepted(std::chrono::milliseconds patience = 10s) const {
    pollfd entry{daemon->get(), POLLIN, 0};
    return ::poll(&entry, 1, static_cast<int>(patience.count())) == 1 &&
           server::wait_for_acceptance(*daemon);
  }

  [[nodiscard]] int exit_status_after_acceptance() const { return accepted() ? exit_status() : -1; }

  [[nodiscard]] std::string complaint() const {
    std::string text(4096, '\0');
    const auto count = ::read(mine[2].get(), text.data(), text.size());
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    return text;
  }

  [[nodiscard]] int exit_status() const { return server::wait_for_exit_status(*daemon); }
};

inline Handoff health() {
  Handoff handoff;
  handoff.kind = HandoffKind::Admin;
  handoff.arguments = {"health"};
  return handoff;
}

inline Handoff serve() {
  Handoff handoff;
  handoff.kind = HandoffKind::Serve;
  handoff.write = true;
  return handoff;
}

inline bool is_served(Rig& rig) {
  Client client;
  try {
    client.hand_over(rig.state_dir, health());
    return client.accepted() && client.exit_status() == 0;
  } catch (const std::exception&) {
    return false; // it was hung up on
  }
}

inline void put_word(std::string& out, std::uint64_t number) {
  for (int i = 0; i < 8; ++i) {
    out += static_cast<char>(number >> (8 * i) & 0xff);
  }
}

/// The greeting, and a question about one path.
inline std::string question() {
  std::string text;
  put_word(text, 0x390c9deb);
  put_word(text, 2U << 8 | 7U);
  put_word(text, 1); // QueryValidPaths
  put_word(text, 0);
  put_word(text, 0);
  put_word(text, 1);
  const std::string path = "/nix/store/00000000000000000000000000000000-a";
  put_word(text, path.size());
  text += path + std::string((8 - path.size() % 8) % 8, '\0');
  return text;
}

inline void ask(const Client& client) {
  const auto text = question();
  REQUIRE(::write(client.mine[0].get(), text.data(), text.size()) ==
          static_cast<ssize_t>(text.size()));
}

inline const std::vector<std::string> kTakeTurns = {"tick", "sync", "machine", "usage", "forget"};

inline bool all_go_on(Rig& rig) {
  const auto before = rig.turns();
  return eventually([&] {
    const auto now = rig.turns();
    return std::all_of(kTakeTurns.begin(), kTakeTurns.end(), [&](const auto& name) {
      const auto then = before.find(name);
      const auto here = now.find(name);
      return here != now.end() && here->second >= (then == before.end() ? 0 : then->second) + 2;
    });
  });
}

} // namespace daemon_test
