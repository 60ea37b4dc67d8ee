#include "paper_server.hpp"

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/server/worker_session.hpp>

#include <boost/asio/this_coro.hpp>
#include <catch2/catch.hpp>
#include <dirent.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <string>

/// Whole conversations of real clients, cut at every byte: the session ends within its deadline and
/// frees all that it held.

namespace cut_session_test {

using namespace nixbuild;
using tests::PaperServer;

namespace {

aio::Task<void> run_cut_session(PaperServer& server,
                                std::shared_ptr<std::array<UniqueFd, 3>> fds,
                                bool worker,
                                std::shared_ptr<std::promise<int>> status) {
  const auto here = co_await boost::asio::this_coro::executor;
  auto in = std::make_shared<aio::ByteStream>(here, std::move((*fds)[0]));
  auto out = std::make_shared<aio::ByteStream>(here, std::move((*fds)[1]));
  auto err = std::make_shared<aio::ByteStream>(here, std::move((*fds)[2]));
  server::SessionLimits limits;
  limits.stalled = std::chrono::seconds(5);
  limits.deaf = std::chrono::seconds(1);
  int result = 0;
  if (worker) {
    result = co_await server::run_worker_session(server.parts,
                                                 limits,
                                                 tests::caller_of(server, true),
                                                 std::move(in),
                                                 std::move(out),
                                                 std::move(err));
  } else {
    result = co_await server::run_serve_session(server.parts,
                                                limits,
                                                tests::caller_of(server, true),
                                                std::move(in),
                                                std::move(out),
                                                std::move(err));
  }
  status->set_value(result);
}

/// One session fed with `bytes` whole, then nothing more. The client reads `read_most` bytes of the
/// answer and then closes its end. Returns the exit status; fails when the session does not end.
int play(PaperServer& server, bool worker, std::string_view bytes, std::size_t read_most) {
  std::array<UniqueFd, 3> ours;
  auto theirs = std::make_shared<std::array<UniqueFd, 3>>();
  for (std::size_t i = 0; i < 3; ++i) {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    ours[i].reset(ends[0]);
    (*theirs)[i].reset(ends[1]);
  }
  auto promise = std::make_shared<std::promise<int>>();
  auto status = promise->get_future();
  server.tasks.spawn("session", run_cut_session(server, theirs, worker, promise));
  while (!bytes.empty()) {
    const auto count = ::send(ours[0].get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count <= 0) {
      break; // the server has had enough of it
    }
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
  ours[0].reset();
  std::array<char, 4096> buffer{};
  std::size_t have = 0;
  while (have < read_most) {
    const auto wanted = std::min(buffer.size(), read_most - have);
    pollfd entry{ours[1].get(), POLLIN, 0};
    REQUIRE(::poll(&entry, 1, 20'000) == 1);
    const auto count = ::read(ours[1].get(), buffer.data(), wanted);
    if (count <= 0) {
      break;
    }
    have += static_cast<std::size_t>(count);
  }
  ours[1].reset();
  REQUIRE(status.wait_for(std::chrono::seconds(20)) == std::future_status::ready);
  return status.get();
}

struct Capture {
  std::string name;
  bool worker = false;
  std::string bytes;
};

std::vector<Capture> captures(const std::string& pair) {
  std::vector<Capture> found;
  for (const auto& entry :
       std::filesystem::directory_iterator(TEST_DATA_DIR "/protocol/captures/" + pair)) {
    if (entry.path().extension() != ".c2s") {
      continue;
    }
    std::ifstream file(entry.path(), std::ios::binary);
    Capture capture;
    capture.name = entry.path().stem().string();
    capture.worker = capture.name.starts_with("ssh-ng-");
    capture.bytes.assign(std::istreambuf_iterator<char>(file), {});
    found.push_back(std::move(capture));
  }
  std::sort(found.begin(), found.end(), [](const Capture& a, const Capture& b) {
    return a.name < b.name;
  });
  return found;
}

std::size_t open_descriptors() {
  std::size_t count = 0;
  DIR* folder = ::opendir("/proc/self/fd");
  while (::readdir(folder) != nullptr) {
    ++count;
  }
  ::closedir(folder);
  return count;
}

/// Contents are kept in memory files, two at most for each.
std::size_t kept_in_memory(PaperServer& server) {
  std::size_t segments = 0;
  const auto count = [&](const Hash&) {
    ++segments;
  };
  server.segments->visit(count);
  return 2 * segments;
}

/// What a server holds that has served a session: event loops open theirs with the first one.
std::size_t descriptors_at_rest(PaperServer& server) {
  play(server, true, "", 0);
  while (server.tasks.running() > 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  return open_descriptors();
}

/// Sessions that have said their status may still be putting their things away, and an output
/// that was being taken in when its client left may still become a segment: what is kept is
/// counted when nothing runs any more.
void expect_nothing_left(PaperServer& server, std::size_t at_rest) {
  const auto rests = [&] {
    return server.tasks.running() == 0 && server.builds.running() == 0 &&
           open_descriptors() <= at_rest + kept_in_memory(server);
  };
  for (int i = 0; i < 400 && !rests(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  CHECK(server.tasks.running() == 0);
  CHECK(server.builds.running() == 0);
  std::string open;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;
    open += std::filesystem::read_symlink(entry.path(), ignored).string() + " ";
  }
  CAPTURE(open);
  CHECK(open_descriptors() <= at_rest + kept_in_memory(server));
}

} // namespace

TEST_CASE(
    "sessions: a conversation cut at any byte from the client ends in time and leaves nothing",
    "[server][fault]") {
  // Every byte of one client's conversations; of the others every 61st.
  const std::vector<std::pair<std::string, std::size_t>> plan = {{"2.26.3_2.26.3", 1},
                                                                 {"2.8.0_2.8.0", 61},
                                                                 {"2.36pre_2.36pre", 61},
                                                                 {"lix-2.94.2_lix-2.94.2", 61}};
  for (const auto& [pair, step] : plan) {
    for (const auto& capture : captures(pair)) {
      CAPTURE(pair, capture.name);
      // One store for all cuts: later ones find valid what earlier ones have brought.
      PaperServer server(tests::good_build);
      const auto before = descriptors_at_rest(server);
      const std::size_t thinned = capture.bytes.size() > 6000 ? step * 7 : step;
      for (std::size_t cut = 0; cut <= capture.bytes.size(); cut += thinned) {
        CAPTURE(cut);
        play(server, capture.worker, std::string_view(capture.bytes).substr(0, cut), 1 << 20);
      }
      expect_nothing_left(server, before);
    }
  }
}

TEST_CASE("sessions: a client that stops reading at any byte is let go in time",
          "[server][fault]") {
  for (const auto& capture : captures("2.26.3_2.26.3")) {
    CAPTURE(capture.name);
    PaperServer server(tests::good_build);
    const auto before = descriptors_at_rest(server);
    for (std::size_t read = 0; read < 3000; read += 97) {
      play(server, capture.worker, capture.bytes, read);
    }
    expect_nothing_left(server, before);
  }
}

} // namespace cut_session_test
