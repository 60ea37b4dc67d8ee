#include "protocol/codecs.hpp"
#include "protocol/receiver.hpp"
#include "protocol/table.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/export_stream.hpp>

#include <fmt/format.h>

namespace nixbuild::protocol {

namespace {

constexpr std::uint64_t kMagic = 0x4558494e; // "NIXE"

struct TrailerLayout {
  using Owner = ExportTrailer;
  static constexpr auto fields =
      std::tuple{wire::field<wire::Path>("path", &Owner::path),
                 wire::field<wire::PathSet>("references", &Owner::references),
                 wire::field<wire::OptionalPath>("deriver", &Owner::deriver)};
};

constexpr Version kAnyVersion{0, 0};

} // namespace

struct ExportStreamReader::State {
  enum class Place { Marker, Nar, Trailer, End };

  State(model::StoreDir dir, Limits limits) : receiver(std::move(dir), limits) {}

  std::optional<Item> next() {
    switch (place) {
    case Place::Marker:
      return marker();
    case Place::Trailer:
      return trailer();
    case Place::Nar:
    case Place::End:
      break;
    }
    return std::nullopt;
  }

  std::optional<Item> marker() {
    const auto word = receiver.peek_word();
    if (!word) {
      return std::nullopt;
    }
    if (*word > 1) {
      throw Error(Reaction::Reject,
                  "export.marker",
                  fmt::format("export stream: {:#x} where 0 or 1 is expected", *word));
    }
    receiver.consume(wire::kWordBytes);
    if (*word == 0) {
      place = Place::End;
      return End{};
    }
    place = Place::Nar;
    return NarBegins{};
  }

  std::optional<Item> trailer() {
    const auto word = receiver.peek_word();
    if (word && *word != kMagic) {
      throw Error(
          Reaction::Reject,
          "export.magic",
          fmt::format("export stream: {:#x} follows a NAR instead of {:#x}", *word, kMagic));
    }
    return receiver.take("export trailer", kAnyVersion, trailer_shape, [&](wire::Decoder& decoder) {
      return Item(read_trailer(decoder));
    });
  }

  static void trailer_shape(wire::Shape& shape) {
    shape.add(wire::StepKind::Word, "magic");
    wire::shape_fields<TrailerLayout>(shape, kAnyVersion);
    shape.add(wire::StepKind::WordOrSkip, "signature", [&] {
      shape.add(wire::StepKind::String, "signature");
    });
  }

  ExportTrailer read_trailer(wire::Decoder& decoder) {
    static_cast<void>(decoder.word());
    ExportTrailer out{model::StorePath(Bytes(20), "placeholder"), {}, {}};
    wire::read_fields<TrailerLayout>(decoder, out);
    decoder.enter("signature");
    if (decoder.word() != 0) {
      static_cast<void>(decoder.string());
    }
    place = Place::Marker;
    return out;
  }

  wire::Receiver receiver;
  Place place = Place::Marker;
};

ExportStreamReader::ExportStreamReader(model::StoreDir dir, Limits limits)
    : state_(std::make_unique<State>(std::move(dir), limits)) {}

ExportStreamReader::~ExportStreamReader() = default;
ExportStreamReader::ExportStreamReader(ExportStreamReader&&) noexcept = default;
ExportStreamReader& ExportStreamReader::operator=(ExportStreamReader&&) noexcept = default;

void ExportStreamReader::feed(ByteView bytes) {
  state_->receiver.feed(bytes);
}

std::optional<ExportStreamReader::Item> ExportStreamReader::next() {
  return state_->receiver.guarded([&] { return state_->next(); });
}

ByteView ExportStreamReader::raw() const noexcept {
  return state_->receiver.view();
}

void ExportStreamReader::consume_raw(std::size_t count) {
  state_->receiver.consume(count);
}

void ExportStreamReader::nar_finished() {
  state_->place = State::Place::Trailer;
}

void write_export_nar_marker(std::string& out) {
  wire::append_word(out, 1);
}

void write_export_trailer(std::string& out,
                          const model::StoreDir& dir,
                          const ExportTrailer& trailer) {
  wire::Encoder encoder(out, dir, kAnyVersion);
  encoder.word(kMagic);
  wire::write_fields<TrailerLayout>(encoder, trailer);
  encoder.word(0);
}

void write_export_end(std::string& out) {
  wire::append_word(out, 0);
}

} // namespace nixbuild::protocol
