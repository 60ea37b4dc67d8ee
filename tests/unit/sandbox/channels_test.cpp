#include "sandbox/channel_sockets.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/admission.hpp>
#include <nixbuild/sandbox/channels.hpp>

#include <catch2/catch.hpp>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <map>
#include <random>
#include <string>
#include <utility>

using namespace nixbuild;
using namespace nixbuild::sandbox;

namespace {

/// A host and a guest, and what lies between them.
struct Line {
  Channels host{Channels::Side::Host};
  Channels guest{Channels::Side::Guest};

  void carry() {
    const auto down = std::exchange(host.outgoing(), std::string());
    const auto up = std::exchange(guest.outgoing(), std::string());
    guest.feed(bytes_of(down));
    host.feed(bytes_of(up));
  }
};

std::string frame(unsigned kind, unsigned channel, std::size_t value, std::string_view bytes = {}) {
  std::string text{static_cast<char>(kind), static_cast<char>(channel), '\0', '\0'};
  return text + admission::length_of(value) + std::string(bytes);
}

std::string refusal(const std::string& bytes, Channels::Side side = Channels::Side::Host) {
  Channels channels(side);
  try {
    channels.feed(bytes_of(bytes));
  } catch (const Error& error) {
    return error.code();
  }
  return "taken";
}

} // namespace

TEST_CASE("channels: streams are opened, carry bytes both ways, and end", "[sandbox]") {
  Line line;
  CHECK(line.host.open() == 0U);
  CHECK_FALSE(line.host.open());
  CHECK(line.guest.open() == 1U);
  CHECK(line.guest.open() == 2U);
  line.guest.send(2, bytes_of("from the guest"));
  line.carry();
  CHECK(line.guest.next_opened() == 0U);
  CHECK(line.host.next_opened() == 1U);
  CHECK(line.host.next_opened() == 2U);
  CHECK_FALSE(line.host.next_opened());
  CHECK(line.host.incoming(2) == "from the guest");
  CHECK(line.host.incoming(1).empty());
  line.host.take(2, 5);
  CHECK(line.host.incoming(2) == "the guest");
  line.host.send(2, bytes_of("back"));
  line.host.end(2);
  CHECK(line.host.room(2) == 0);
  line.carry();
  CHECK(line.guest.incoming(2) == "back");
  CHECK_FALSE(line.guest.drained(2));
  line.guest.take(2, 4);
  CHECK(line.guest.drained(2));
  CHECK(line.guest.in_use(2));
  line.guest.end(2);
  line.carry();
  CHECK_FALSE(line.guest.in_use(2));
  CHECK_FALSE(line.host.in_use(2));
  CHECK(line.guest.open() == 2U);
}

TEST_CASE("channels: nobody sends more than the other has taken and a window", "[sandbox]") {
  Line line;
  const auto channel = line.guest.open().value();
  const std::string much(Channels::kWindow, 'x');
  CHECK(line.guest.room(channel) == Channels::kWindow);
  line.guest.send(channel, bytes_of(much));
  CHECK(line.guest.room(channel) == 0);
  line.carry();
  line.carry();
  CHECK(line.guest.room(channel) == 0);
  line.host.take(channel, 1000); // too little to be worth a word
  line.carry();
  CHECK(line.guest.room(channel) == 0);
  line.host.take(channel, 100'000);
  line.carry();
  CHECK(line.guest.room(channel) == 101'000);
  CHECK(line.host.incoming(channel).size() == much.size() - 101'000);
}

TEST_CASE("channels: what is under way when both end a stream hurts nobody", "[sandbox]") {
  Line line;
  const auto channel = line.guest.open().value();
  line.carry();
  line.guest.send(channel, bytes_of(std::string(200'000, 'x')));
  line.carry();
  line.host.take(channel, 200'000); // credit, on its way
  line.host.end(channel);
  line.guest.send(channel, bytes_of("late"));
  line.guest.end(channel);
  line.carry();
  CHECK_FALSE(line.host.in_use(channel));
  CHECK_FALSE(line.guest.in_use(channel));
  CHECK(line.guest.open() == channel);
  line.carry();
  CHECK(line.host.next_opened() == channel);
}

TEST_CASE("channels: a peer that breaks the rules is refused", "[sandbox][reject]") {
  const auto open = frame(1, 3, 0);
  CHECK(refusal(open) == "taken");
  CHECK(refusal(open + frame(2, 3, 4, "four")) == "taken");
  const auto refused =
      GENERATE_COPY(values<std::string>({open + open,
                                         frame(1, 0, 0), // the host's
                                         frame(1, 3, 1),
                                         frame(0, 3, 0),
                                         frame(5, 3, 0),
                                         frame(1, 16, 0),
                                         frame(2, 3, 1, "x"),        // not open
                                         open + frame(2, 3, 0),      // no bytes
                                         open + frame(2, 3, 32'769), // too many at once
                                         open + frame(3, 3, 1),      // beyond the window
                                         open + frame(4, 3, 0) + frame(2, 3, 1, "x"),
                                         open + frame(4, 3, 0) + frame(4, 3, 0),
                                         std::string("\1\3\1\0\0\0\0\0", 8)}));
  CHECK(refusal(refused) == "sandbox.channels");
  std::string flood = open;
  for (int i = 0; i < 9; ++i) {
    flood += frame(2, 3, 32'768, std::string(32'768, 'x'));
  }
  CHECK(refusal(flood) == "sandbox.channels");
  CHECK(refusal(frame(1, 4, 0), Channels::Side::Guest) == "sandbox.channels");
}

namespace {

/// Two ends of a port with a socket for each stream, in one loop.
struct Port {
  static std::array<UniqueFd, 2> unblocked(std::array<UniqueFd, 2> pair) {
    for (const auto& end : pair) {
      REQUIRE(::fcntl(end.get(), F_SETFL, O_RDWR | O_NONBLOCK) == 0);
    }
    return pair;
  }

  std::array<UniqueFd, 2> ends = unblocked(socket_pair());
  ChannelSockets host{std::move(ends[0]), Channels::Side::Host};
  ChannelSockets guest{std::move(ends[1]), Channels::Side::Guest};

  bool turn() {
    const bool up = guest.move();
    const bool down = host.move();
    return up && down;
  }

  static UniqueFd join(ChannelSockets& side, unsigned channel) {
    auto [here, there] = socket_pair();
    side.join(channel, std::move(here));
    return std::move(there);
  }
};

std::string read_now(const UniqueFd& socket, bool& ended) {
  std::array<char, 50'000> buffer{};
  const auto got = ::recv(socket.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  ended = got == 0;
  return {buffer.data(), got > 0 ? static_cast<std::size_t>(got) : 0};
}

} // namespace

TEST_CASE("channel sockets: many streams at once, each with its own bytes and end",
          "[sandbox][property]") {
  Port port;
  std::map<unsigned, UniqueFd> client;
  std::map<unsigned, UniqueFd> server;
  std::map<unsigned, std::string> sent;
  std::map<unsigned, std::string> came;
  std::mt19937 random(3);
  for (int i = 0; i < 12; ++i) {
    const auto channel = port.guest.open().value();
    client[channel] = Port::join(port.guest, channel);
  }
  std::size_t ended = 0;
  for (int round = 0; round < 20'000 && ended < 12; ++round) {
    REQUIRE(port.turn());
    while (const auto channel = port.host.next_opened()) {
      server[*channel] = Port::join(port.host, *channel);
    }
    for (auto& [channel, socket] : client) {
      if (socket && sent[channel].size() > 700'000) {
        socket.reset();
      } else if (socket && random() % 3 == 0) {
        const std::string piece(1 + random() % 60'000, static_cast<char>('a' + channel));
        const auto put = ::send(socket.get(), piece.data(), piece.size(), MSG_DONTWAIT);
        sent[channel] += piece.substr(0, put > 0 ? static_cast<std::size_t>(put) : 0);
      }
    }
    for (auto& [channel, socket] : server) {
      // One reader is slow, and only its own stream waits for it.
      if (socket && (channel != 5 || round % 50 == 0 || ended == 11)) {
        bool over = false;
        came[channel] += read_now(socket, over);
        if (over) {
          ++ended;
          socket.reset();
        }
      }
    }
  }
  CHECK(ended == 12);
  CHECK(came == sent);
}

TEST_CASE("channel sockets: a server that hangs up first, and a port that goes", "[sandbox]") {
  Port port;
  const auto channel = port.guest.open().value();
  const auto client = Port::join(port.guest, channel);
  REQUIRE(port.turn());
  REQUIRE(port.turn());
  REQUIRE(port.host.next_opened() == channel);
  auto server = Port::join(port.host, channel);
  REQUIRE(::send(server.get(), "bye", 3, 0) == 3);
  server.reset();
  bool over = false;
  std::string words;
  for (int i = 0; i < 10 && !over; ++i) {
    REQUIRE(port.turn());
    words += read_now(client, over);
  }
  CHECK(words == "bye");
  CHECK(over);
  CHECK(port.guest.open() == channel);
  { const ChannelSockets gone = std::move(port.host); }
  CHECK_FALSE(port.guest.move());
}
