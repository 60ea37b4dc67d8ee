#include "daemon_rig.hpp"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

namespace daemon_test {

namespace {

/// The descriptors that this process may still open: none, while it lives.
class NoDescriptors {
public:
  NoDescriptors() {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    // Holes are filled, so that the lowest free number is above all others.
    std::vector<UniqueFd> fill;
    int highest = -1;
    for (int i = 0; i < 256; ++i) {
      fill.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
      highest = std::max(highest, fill.back().get());
    }
    std::sort(
        fill.begin(), fill.end(), [](const auto& a, const auto& b) { return a.get() < b.get(); });
    // Those beyond the first gap-free end are given back with the object.
    kept_ = std::move(fill);
    auto limit = before_;
    limit.rlim_cur = static_cast<rlim_t>(highest) + 1;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }

  ~NoDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }

private:
  rlimit before_{};
  std::vector<UniqueFd> kept_;
};

} // namespace

TEST_CASE("daemon: an exception in whatever its loops call ends none of them",
          "[server][property][fault]") {
  Rig rig;
  rig.start();
  REQUIRE(all_go_on(rig));
  for (const auto* call : {"clock wall",
                           "clock monotonic",
                           "remove_builds",
                           "remove_finished_before",
                           "accounts",
                           "cpu_time_us"}) {
    for (int times = 1; times <= 4; ++times) {
      INFO(call << " fails " << times << " times");
      rig.door.fail(call, times);
      // A new month has the used time counted.
      rig.clock.ahead = rig.clock.ahead.load() + 24h * 32;
      REQUIRE(eventually([&] { return rig.door.has_failed(call); }));
      REQUIRE(all_go_on(rig));
      REQUIRE(eventually([&] { return is_served(rig); }));
    }
  }
  rig.end();
  CHECK(rig.status == 0);
}

TEST_CASE("daemon: a state folder that cannot be written to for a while is synced afterwards",
          "[server][fault]") {
  Rig rig;
  rig.start();
  REQUIRE(is_served(rig));
  const auto aside = rig.state_dir + ".aside";
  std::filesystem::rename(rig.state_dir, aside);
  const auto failing = [&] {
    const auto loops = rig.daemon->loops();
    return std::any_of(loops.begin(), loops.end(), [](const auto& loop) {
      return loop.name == "sync" && loop.failed_again > 1 && !loop.well();
    });
  };
  REQUIRE(eventually(failing));
  std::filesystem::rename(aside, rig.state_dir);
  REQUIRE(eventually([&] { return server::all_well(rig.daemon->loops()); }));
  std::filesystem::remove(rig.state_dir + "/synced");
  REQUIRE(is_served(rig));
  REQUIRE(eventually([&] { return std::filesystem::exists(rig.state_dir + "/synced"); }));
  REQUIRE(all_go_on(rig));
}

TEST_CASE("daemon: one of whose loops fails without end makes room for the next one",
          "[server][fault]") {
  Rig rig;
  auto settings = rig.settings();
  settings.pace.patience = 300ms;
  rig.start(std::move(settings));
  const auto aside = rig.state_dir + ".aside";
  std::filesystem::rename(rig.state_dir, aside);
  rig.loop.join();
  CHECK(rig.status == 70);
  std::filesystem::rename(aside, rig.state_dir);
  rig.start();
  CHECK(is_served(rig));
}

TEST_CASE("daemon: takes sessions again once there are descriptors again", "[server][fault]") {
  Rig rig;
  rig.start();
  REQUIRE(is_served(rig));
  Client waiting;
  waiting.daemon.emplace();
  auto socket = server::connect_to_daemon(rig.state_dir);
  REQUIRE(socket);
  // This one is there already; the next one is connected while there are none.
  waiting.daemon = std::move(socket);
  const auto failing = [&] {
    const auto loops = rig.daemon->loops();
    return std::any_of(loops.begin(), loops.end(), [](const auto& loop) {
      return loop.name == "accept" && loop.failed_again > 0;
    });
  };
  UniqueFd late(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const UniqueFd folder(::open(rig.state_dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const auto path = "/proc/self/fd/" + std::to_string(folder.get()) + "/daemon.sock";
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  {
    const NoDescriptors none;
    REQUIRE(::connect(late.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) ==
            0);
    REQUIRE(eventually(failing));
  }
  REQUIRE(eventually([&] { return is_served(rig); }));
  REQUIRE(eventually([&] { return server::all_well(rig.daemon->loops()); }));
}

TEST_CASE("daemon: ends while sessions wait for a database that somebody else holds",
          "[server][fault]") {
  Rig rig;
  rig.start();
  std::vector<Client> clients(12); // more than there are threads for them
  for (auto& client : clients) {
    client.hand_over(rig.state_dir, serve());
    REQUIRE(client.accepted());
  }
  rig.door.hold("valid_paths");
  for (const auto& client : clients) {
    ask(client);
  }
  REQUIRE(rig.door.wait_for("valid_paths"));
  std::thread later([&] {
    // Longer than sessions have to leave.
    std::this_thread::sleep_for(1s);
    rig.door.release("valid_paths");
  });
  const auto begun = std::chrono::steady_clock::now();
  rig.end();
  CHECK(std::chrono::steady_clock::now() - begun < 8s);
  CHECK(rig.status == 0);
  later.join();
}

TEST_CASE("daemon: ends at any moment of its sessions", "[server][property]") {
  for (int moment = 0; moment < 12; ++moment) {
    Rig rig;
    rig.start();
    std::vector<Client> clients(4);
    std::thread asking([&] {
      try {
        for (auto& client : clients) {
          client.hand_over(rig.state_dir, serve());
          ask(client);
        }
      } catch (const std::exception&) {
        // It has ended already.
      }
    });
    std::this_thread::sleep_for(std::chrono::microseconds(moment * 700));
    rig.daemon->stop();
    asking.join();
    rig.end();
    CHECK(rig.status == 0);
  }
}

TEST_CASE("daemon: closes a folder that was left open, and its database", "[server]") {
  Rig rig;
  std::filesystem::create_directory(rig.state_dir);
  std::filesystem::create_directory(rig.state_dir + "/kernels");
  ::chmod(rig.state_dir.c_str(), 0755);
  const auto database = rig.state_dir + "/metadata.sqlite";
  std::ofstream(database).close();
  ::chmod(database.c_str(), 0644);
  rig.start();
  const auto mode_of = [](const std::string& name) {
    struct stat info {};

    REQUIRE(::stat(name.c_str(), &info) == 0);
    return info.st_mode & 07777;
  };
  CHECK(mode_of(rig.state_dir) == 0700);
  CHECK(mode_of(database) == 0600);
  CHECK(mode_of(database + "-wal") == 0600);
  rig.end();
  // A group that the operator has let in stays in.
  ::chmod(rig.state_dir.c_str(), 0710);
  rig.start();
  CHECK(mode_of(rig.state_dir) == 0710);
}

TEST_CASE("daemon: a folder with other things in it is not ours to close", "[server]") {
  Rig rig;
  std::filesystem::create_directory(rig.state_dir);
  std::ofstream(rig.state_dir + "/somebody's").close();
  ::chmod(rig.state_dir.c_str(), 0755);
  rig.start();

  struct stat info {};

  REQUIRE(::stat(rig.state_dir.c_str(), &info) == 0);
  CHECK((info.st_mode & 07777) == 0755);
}

TEST_CASE("daemon: a signing key that is none is named with its file", "[server][reject]") {
  for (const std::string text : {"", "\n", "no key\n"}) {
    Rig rig;
    std::filesystem::create_directory(rig.state_dir);
    std::ofstream(rig.state_dir + "/signing-key.secret") << text;
    try {
      rig.start();
      FAIL("it started");
    } catch (const Error& error) {
      CHECK(error.code() == "daemon.key");
      CHECK(
          error.message().starts_with(rig.state_dir + "/signing-key.secret holds no signing key"));
    }
  }
}

TEST_CASE("daemon: sessions of an account are bounded, and others come in all the same",
          "[server][reject]") {
  Rig rig;
  auto settings = rig.settings();
  settings.config.account_sessions = 3;
  rig.start(std::move(settings));
  std::vector<Client> clients(3);
  for (auto& client : clients) {
    client.hand_over(rig.state_dir, serve());
    REQUIRE(client.accepted());
  }
  Client one_more;
  one_more.hand_over(rig.state_dir, serve());
  CHECK(one_more.exit_status_after_acceptance() == 5);
  CHECK(one_more.complaint() ==
        "error: account 'default' has 3 sessions open already, as many as it may have "
        "(sessions.most-of-account)\n");
  // The operator's own commands are not counted, and another account's sessions by themselves.
  CHECK(is_served(rig));
  auto of_another = serve();
  of_another.account = "nobody";
  Client another;
  another.hand_over(rig.state_dir, of_another);
  CHECK(another.exit_status_after_acceptance() == 3);
  clients.pop_back();
  CHECK(eventually([&] {
    Client next;
    next.hand_over(rig.state_dir, serve());
    ask(next);
    next.mine[0].reset();
    return next.exit_status_after_acceptance() == 0;
  }));
}

TEST_CASE("daemon: a client that does not greet is sent away, also one that dribbles", "[server]") {
  Rig rig;
  auto settings = rig.settings();
  settings.config.session_greeting = 1s;
  rig.start(std::move(settings));
  Client silent;
  silent.hand_over(rig.state_dir, serve());
  Client slow;
  slow.hand_over(rig.state_dir, serve());
  Handoff worker;
  worker.kind = HandoffKind::Worker;
  worker.write = true;
  Client other;
  other.hand_over(rig.state_dir, worker);
  const auto text = question();
  const auto begun = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < 8; ++i) {
    // Each byte within its second.
    static_cast<void>(::write(slow.mine[0].get(), &text[i], 1));
    std::this_thread::sleep_for(200ms);
  }
  CHECK(silent.exit_status_after_acceptance() == 1);
  CHECK(slow.exit_status_after_acceptance() == 1);
  CHECK(other.exit_status_after_acceptance() == 1);
  CHECK(std::chrono::steady_clock::now() - begun < 4s);
}

TEST_CASE("daemon: what takes long keeps nobody else out, and an account has one at a time",
          "[server]") {
  Rig rig;
  rig.start();
  Handoff verify;
  verify.kind = HandoffKind::Admin;
  verify.arguments = {"path", "verify"};
  rig.door.hold("all_paths");
  std::vector<Client> clients(16);
  for (auto& client : clients) {
    client.hand_over(rig.state_dir, verify);
    REQUIRE(client.accepted());
  }
  REQUIRE(rig.door.wait_for("all_paths"));
  for (int i = 0; i < 5; ++i) {
    const auto begun = std::chrono::steady_clock::now();
    Client client;
    client.hand_over(rig.state_dir, serve());
    ask(client);
    client.mine[0].reset();
    CHECK(client.exit_status_after_acceptance() == 0);
    CHECK(std::chrono::steady_clock::now() - begun < 1s);
  }
  CHECK(rig.door.count_of("all_paths") == 1);
  rig.door.release("all_paths");
  for (auto& client : clients) {
    CHECK(client.exit_status() == 0);
  }
}

} // namespace daemon_test
