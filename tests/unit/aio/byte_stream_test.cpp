#include "support/run_task.hpp"

#include <nixbuild/aio/byte_stream.hpp>
#include <nixbuild/base/error.hpp>

#include <boost/asio/this_coro.hpp>
#include <catch2/catch.hpp>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <string>
#include <thread>

using namespace nixbuild;

namespace {

struct Pair {
  UniqueFd ours;
  UniqueFd theirs;
};

Pair socket_pair() {
  int ends[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Pair pipe_to_read() {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::string read_all(int fd) {
  std::string result;
  std::array<char, 65536> buffer{};
  ssize_t count = 0;
  while ((count = ::read(fd, buffer.data(), buffer.size())) > 0) {
    result.append(buffer.data(), static_cast<std::size_t>(count));
  }
  return result;
}

aio::Task<void> collect(UniqueFd fd, std::string& out) {
  aio::ByteStream stream(co_await boost::asio::this_coro::executor, std::move(fd));
  Bytes buffer(1000);
  while (const std::size_t count = co_await stream.read_some(buffer)) {
    out.append(text_of(ByteView(buffer).first(count)));
  }
}

aio::Task<void> read_with_patience(UniqueFd fd) {
  aio::ByteStream stream(co_await boost::asio::this_coro::executor, std::move(fd));
  Bytes buffer(10);
  co_await stream.read_some(buffer, std::chrono::milliseconds(20));
}

aio::Task<void> send(UniqueFd fd, std::string_view text, int file, std::uint64_t length) {
  aio::ByteStream stream(co_await boost::asio::this_coro::executor, std::move(fd));
  co_await stream.write_all(bytes_of(text), std::chrono::seconds(10));
  co_await stream.send_file(file, 3, length, std::chrono::seconds(10));
}

aio::Task<void> await_hang_up(UniqueFd fd, bool& noticed) {
  aio::ByteStream stream(co_await boost::asio::this_coro::executor, std::move(fd));
  co_await stream.wait_hang_up();
  noticed = true;
}

} // namespace

TEST_CASE("byte stream: reads a pipe to its end and leaves the peer's flags alone", "[aio]") {
  auto ends = pipe_to_read();
  const UniqueFd shared = ends.ours.duplicate();
  std::string got;
  std::jthread writer([fd = std::move(ends.theirs)] {
    for (int i = 0; i < 100; ++i) {
      REQUIRE(::write(fd.get(), "0123456789", 10) == 10);
    }
  });
  boost::asio::io_context io;
  test::run_task(io, collect(std::move(ends.ours), got));
  CHECK(got.size() == 1000);
  CHECK((::fcntl(shared.get(), F_GETFL) & O_NONBLOCK) == 0);
}

TEST_CASE("byte stream: a regular file can be read, though it cannot be polled", "[aio]") {
  const UniqueFd file(::memfd_create("test", MFD_CLOEXEC));
  REQUIRE(::write(file.get(), "contents", 8) == 8);
  ::lseek(file.get(), 0, SEEK_SET);
  std::string got;
  boost::asio::io_context io;
  test::run_task(io, collect(file.duplicate(), got));
  CHECK(got == "contents");
}

TEST_CASE("byte stream: a silent peer runs into the deadline", "[aio][fault]") {
  auto ends = socket_pair();
  boost::asio::io_context io;
  try {
    test::run_task(io, read_with_patience(std::move(ends.ours)));
    FAIL("no deadline");
  } catch (const Error& error) {
    CHECK(error.code() == "stream.timeout");
    CHECK(error.reaction() == Reaction::Timeout);
  }
}

TEST_CASE("byte stream: writes and sends a file's range to sockets and pipes", "[aio]") {
  const UniqueFd file(::memfd_create("test", MFD_CLOEXEC));
  const std::string contents(1'000'000, 'x');
  REQUIRE(::write(file.get(), contents.data(), contents.size()) == 1'000'000);
  for (const bool as_pipe : {false, true}) {
    CAPTURE(as_pipe);
    auto ends = as_pipe ? pipe_to_read() : socket_pair();
    std::string got;
    auto& from = as_pipe ? ends.ours : ends.theirs;
    auto& to = as_pipe ? ends.theirs : ends.ours;
    boost::asio::io_context io;
    {
      std::jthread reader([&got, &from] { got = read_all(from.get()); });
      test::run_task(io, send(std::move(to), "head:", file.get(), 900'000));
    }
    CHECK(got.size() == 900'005);
    CHECK(got.substr(0, 6) == "head:x");
  }
}

TEST_CASE("byte stream: a file that is too short is an error of ours", "[aio][fault]") {
  const UniqueFd file(::memfd_create("test", MFD_CLOEXEC));
  auto ends = socket_pair();
  boost::asio::io_context io;
  try {
    test::run_task(io, send(std::move(ends.ours), "x", file.get(), 10));
    FAIL("not noticed");
  } catch (const Error& error) {
    CHECK(error.code() == "stream.short-file");
  }
}

TEST_CASE("byte stream: a closed peer is Disconnected", "[aio][fault]") {
  ::signal(SIGPIPE, SIG_IGN);
  const UniqueFd file(::memfd_create("test", MFD_CLOEXEC));
  auto ends = socket_pair();
  ends.theirs.reset();
  boost::asio::io_context io;
  try {
    test::run_task(io, send(std::move(ends.ours), "x", file.get(), 0));
    FAIL("not noticed");
  } catch (const Error& error) {
    CHECK(error.reaction() == Reaction::Disconnected);
  }
}

TEST_CASE("byte stream: a hang-up is noticed on pipes and sockets", "[aio]") {
  for (const bool as_pipe : {false, true}) {
    auto ends = as_pipe ? pipe_to_read() : socket_pair();
    bool noticed = false;
    std::jthread closer([fd = std::move(ends.theirs)]() mutable {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      fd.reset();
    });
    boost::asio::io_context io;
    test::run_task(io, await_hang_up(std::move(ends.ours), noticed));
    CHECK(noticed);
  }
}
