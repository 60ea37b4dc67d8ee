#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/channels.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nixbuild::sandbox {

namespace {

constexpr std::uint8_t kOpen = 1;
constexpr std::uint8_t kData = 2;
constexpr std::uint8_t kCredit = 3;
constexpr std::uint8_t kEnd = 4;
/// Credit is given back in portions, not for every byte.
constexpr std::size_t kPortion = Channels::kWindow / 4;

struct Header {
  std::uint8_t kind = 0;
  unsigned channel = 0;
  std::size_t value = 0;
};

[[noreturn]] void refuse_frame(std::string message) {
  throw Error(Reaction::Reject, "sandbox.channels", std::move(message));
}

Header read_header(ByteView bytes) {
  if (bytes[2] != 0 || bytes[3] != 0) {
    refuse_frame("a frame's header has bits that mean nothing");
  }
  Header header{bytes[0], bytes[1], 0};
  for (std::size_t i = 0; i < 4; ++i) {
    header.value |= std::size_t{bytes[4 + i]} << (8 * i);
  }
  if (header.kind < kOpen || header.kind > kEnd || header.channel >= Channels::kMost) {
    refuse_frame(fmt::format("a frame of kind {} for channel {}", header.kind, header.channel));
  }
  if (header.kind == kData && (header.value == 0 || header.value > Channels::kMaxData)) {
    refuse_frame(
        fmt::format("a frame of {} bytes; 1 to {} are possible", header.value, Channels::kMaxData));
  }
  return header;
}

} // namespace

void Channels::put(std::uint8_t kind, unsigned channel, std::size_t value, ByteView bytes) {
  outgoing_.push_back(static_cast<char>(kind));
  outgoing_.push_back(static_cast<char>(channel));
  outgoing_.append(2, '\0');
  for (unsigned i = 0; i < 4; ++i) {
    outgoing_.push_back(static_cast<char>(value >> (8 * i) & 0xff));
  }
  outgoing_.append(text_of(bytes));
}

void Channels::begin(unsigned channel) {
  auto& stream = streams_.at(channel);
  stream = Stream();
  stream.open = true;
  stream.credit = kWindow;
  stream.allowance = kWindow;
}

/// When both have ended it, nothing of it can be under way: the number is free.
void Channels::finish(Stream& stream) noexcept {
  if (stream.ended_here && stream.ended_there) {
    stream = Stream();
  }
}

void Channels::feed(ByteView bytes) {
  if (!pending_.empty()) {
    pending_.append(text_of(bytes));
    std::string all = std::exchange(pending_, std::string());
    const auto used = accept(bytes_of(all));
    pending_ = all.substr(used);
    return;
  }
  const auto used = accept(bytes);
  pending_.assign(text_of(bytes.subspan(used)));
}

/// Whole frames; returns how many bytes they are.
std::size_t Channels::accept(ByteView bytes) {
  std::size_t used = 0;
  while (bytes.size() - used >= kHeaderBytes) {
    const auto header = read_header(bytes.subspan(used, kHeaderBytes));
    const auto length = header.kind == kData ? header.value : 0;
    if (bytes.size() - used - kHeaderBytes < length) {
      break;
    }
    auto& stream = streams_.at(header.channel);
    if (header.kind == kOpen) {
      const bool theirs = (header.channel == 0) == (side_ == Side::Guest);
      if (stream.open || !theirs || header.value != 0) {
        refuse_frame(fmt::format("channel {} cannot be opened", header.channel));
      }
      begin(header.channel);
      opened_.push_back(header.channel);
    } else if (!stream.open || stream.ended_there) {
      refuse_frame(fmt::format("channel {} is not open", header.channel));
    } else if (header.kind == kData) {
      if (length > stream.allowance) {
        refuse_frame(fmt::format("channel {} has sent more than it may", header.channel));
      }
      stream.allowance -= length;
      if (!stream.ended_here) {
        stream.incoming.append(text_of(bytes.subspan(used + kHeaderBytes, length)));
      }
    } else if (header.kind == kCredit) {
      if (header.value > kWindow - stream.credit) {
        refuse_frame(fmt::format("channel {} is given more than its window", header.channel));
      }
      stream.credit += header.value;
    } else {
      stream.ended_there = true;
      finish(stream);
    }
    used += kHeaderBytes + length;
  }
  return used;
}

std::optional<unsigned> Channels::next_opened() {
  if (opened_.empty()) {
    return std::nullopt;
  }
  const auto channel = opened_.front();
  opened_.pop_front();
  return channel;
}

std::optional<unsigned> Channels::open() {
  const unsigned first = side_ == Side::Host ? 0 : 1;
  const unsigned last = side_ == Side::Host ? 0 : kMost - 1;
  for (unsigned channel = first; channel <= last; ++channel) {
    if (!streams_.at(channel).open) {
      begin(channel);
      put(kOpen, channel, 0);
      return channel;
    }
  }
  return std::nullopt;
}

std::size_t Channels::room(unsigned channel) const noexcept {
  const auto& stream = streams_[channel];
  return stream.open && !stream.ended_here && !stream.ended_there ? stream.credit : 0;
}

void Channels::send(unsigned channel, ByteView bytes) {
  auto& stream = streams_.at(channel);
  stream.credit -= bytes.size();
  while (!bytes.empty()) {
    const auto piece = bytes.first(std::min(bytes.size(), kMaxData));
    put(kData, channel, piece.size(), piece);
    bytes = bytes.subspan(piece.size());
  }
}

void Channels::end(unsigned channel) {
  auto& stream = streams_.at(channel);
  if (stream.open && !stream.ended_here) {
    stream.ended_here = true;
    stream.incoming.clear();
    stream.taken = 0;
    put(kEnd, channel, 0);
    finish(stream);
  }
}

std::string_view Channels::incoming(unsigned channel) const noexcept {
  const auto& stream = streams_[channel];
  return std::string_view(stream.incoming).substr(stream.taken);
}

void Channels::take(unsigned channel, std::size_t bytes) {
  auto& stream = streams_.at(channel);
  stream.taken += bytes;
  stream.owed += bytes;
  if (stream.taken == stream.incoming.size()) {
    stream.incoming.clear();
    stream.taken = 0;
  }
  if (stream.owed >= kPortion && !stream.ended_there) {
    put(kCredit, channel, stream.owed);
    stream.allowance += std::exchange(stream.owed, 0);
  }
}

bool Channels::drained(unsigned channel) const noexcept {
  const auto& stream = streams_[channel];
  return !stream.open || (stream.ended_there && stream.taken == stream.incoming.size());
}

bool Channels::in_use(unsigned channel) const noexcept {
  return streams_[channel].open;
}

} // namespace nixbuild::sandbox
