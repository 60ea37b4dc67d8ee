#include "protocol/nix_layouts.hpp"
#include "protocol/receiver.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/path_info_stream.hpp>

#include <fmt/format.h>

#include <algorithm>

namespace nixbuild::protocol {

namespace {

/// The layout of infos, whatever was negotiated.
constexpr Version kLayoutVersion{1, 16};

} // namespace

struct PathInfoStream::State {
  enum class Place { Count, Paths, End };

  State(model::StoreDir dir, Limits given) : receiver(std::move(dir), given), limits(given) {}

  std::optional<Item> next() {
    if (nar_left > 0 || place == Place::End) {
      return std::nullopt;
    }
    if (place == Place::Count) {
      return count();
    }
    if (paths_left == 0) {
      place = Place::End;
      return End{};
    }
    return path_info();
  }

  std::optional<Item> count() {
    const auto word = receiver.peek_word();
    if (!word) {
      return std::nullopt;
    }
    if (*word > limits.elements) {
      throw Error(Reaction::Reject,
                  "wire.limit",
                  fmt::format("path info stream: {} paths exceed {}", *word, limits.elements));
    }
    receiver.consume(wire::kWordBytes);
    paths_left = *word;
    place = Place::Paths;
    return Count{*word};
  }

  std::optional<Item> path_info() {
    auto info = receiver.take(
        "path info stream",
        kLayoutVersion,
        [](wire::Shape& shape) {
          wire::shape_fields<wire::ValidPathInfoLayout>(shape, kLayoutVersion);
        },
        [](wire::Decoder& decoder) {
          model::PathInfo out = wire::blank_path_info();
          wire::read_fields<wire::ValidPathInfoLayout>(decoder, out);
          return out;
        });
    if (!info) {
      return std::nullopt;
    }
    --paths_left;
    nar_left = info->nar_size;
    return std::move(*info);
  }

  wire::Receiver receiver;
  Limits limits;
  Place place = Place::Count;
  std::uint64_t paths_left = 0;
  std::uint64_t nar_left = 0;
};

PathInfoStream::PathInfoStream(model::StoreDir dir, Limits limits)
    : state_(std::make_unique<State>(std::move(dir), limits)) {}

PathInfoStream::~PathInfoStream() = default;
PathInfoStream::PathInfoStream(PathInfoStream&&) noexcept = default;
PathInfoStream& PathInfoStream::operator=(PathInfoStream&&) noexcept = default;

void PathInfoStream::feed(ByteView bytes) {
  state_->receiver.feed(bytes);
}

std::optional<PathInfoStream::Item> PathInfoStream::next() {
  return state_->receiver.guarded([&] { return state_->next(); });
}

std::uint64_t PathInfoStream::nar_left() const noexcept {
  return state_->nar_left;
}

ByteView PathInfoStream::nar() const noexcept {
  const ByteView view = state_->receiver.view();
  return view.first(
      static_cast<std::size_t>(std::min<std::uint64_t>(view.size(), state_->nar_left)));
}

void PathInfoStream::consume_nar(std::size_t count) {
  state_->receiver.consume(count);
  state_->nar_left -= count;
}

bool PathInfoStream::finished() const noexcept {
  return state_->place == State::Place::End && state_->receiver.empty();
}

void write_path_count(std::string& out, std::uint64_t paths) {
  wire::append_word(out, paths);
}

void write_path_info(std::string& out, const model::StoreDir& dir, const model::PathInfo& info) {
  wire::Encoder encoder(out, dir, kLayoutVersion);
  wire::write_fields<wire::ValidPathInfoLayout>(encoder, info);
}

} // namespace nixbuild::protocol
