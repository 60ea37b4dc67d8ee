#include "protocol/hello.hpp"
#include "protocol/receiver.hpp"
#include "protocol/serve_tables.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/serve.hpp>

namespace nixbuild::protocol::serve {

namespace {

/// An entry of a QueryPathInfos reply begins with its path; an empty one ends the list.
void path_info_shape(wire::Shape& shape, Version version) {
  shape.add(wire::StepKind::StringOrSkip, "path", [&] {
    wire::shape_fields<PathInfoLayout>(shape, version);
  });
}

std::optional<PathInfoReply> decode_path_info(wire::Decoder& decoder) {
  decoder.enter("path");
  const std::string_view path = decoder.string();
  if (path.empty()) {
    return std::nullopt;
  }
  PathInfoReply out{blank_path_info(), 0};
  out.info.path = decoder.dir().parse(path);
  wire::read_fields<PathInfoLayout>(decoder, out);
  return out;
}

} // namespace

void write_hello(std::string& out, Version version) {
  wire::append_word(out, kServerMagic);
  wire::append_word(out, version.word());
}

void write_paths(std::string& out,
                 const model::StoreDir& dir,
                 std::span<const model::StorePath> paths) {
  wire::Encoder encoder(out, dir, kNewestVersion);
  encoder.word(paths.size());
  for (const auto& path : paths) {
    encoder.path(path);
  }
}

void write_path_info(std::string& out,
                     const model::StoreDir& dir,
                     Version version,
                     const PathInfoReply& info) {
  wire::Encoder encoder(out, dir, version);
  encoder.path(info.info.path);
  wire::write_fields<PathInfoLayout>(encoder, info);
}

void write_end_of_infos(std::string& out) {
  wire::append_word(out, 0);
}

void write_number(std::string& out, std::uint64_t number) {
  wire::append_word(out, number);
}

void write_build_paths_reply(std::string& out,
                             model::BuildStatus status,
                             std::string_view message) {
  if (model::is_success(status)) {
    wire::append_word(out, 0);
    return;
  }
  const model::StoreDir dir;
  wire::Encoder encoder(out, dir, kNewestVersion);
  wire::BuildStatusNumber::write(encoder, status);
  encoder.string(message);
}

void write_build_result(std::string& out,
                        const model::StoreDir& dir,
                        Version version,
                        const model::BuildResult& result,
                        const std::map<std::string, Hash>& realisation_hashes) {
  wire::Encoder encoder(out, dir, version);
  const wire::KeyedResult value{result, realisation_hashes};
  wire::write_fields<BuildResultLayout>(encoder, value);
}

struct ReplyReader::State {
  State(model::StoreDir dir, Limits limits)
      : receiver(std::move(dir), limits), hello(kServeHello, kServerMagic, kNewestVersion) {}

  /// Error (Internal) `serve.hello` when the caller reads a reply before it.
  [[nodiscard]] Version version() const {
    if (!hello.agreed()) {
      throw Error(Reaction::Internal, "serve.hello", "a reply is read before the server's hello");
    }
    return *hello.agreed();
  }

  /// One message of a shape, guarded.
  template <class Fill, class Read>
  auto take(std::string_view name, Fill fill, Read read) {
    return receiver.guarded([&] { return receiver.take(name, version(), fill, read); });
  }

  wire::Receiver receiver;
  wire::HelloReader hello;
};

ReplyReader::ReplyReader(model::StoreDir dir, Limits limits)
    : state_(std::make_unique<State>(std::move(dir), limits)) {}

ReplyReader::~ReplyReader() = default;
ReplyReader::ReplyReader(ReplyReader&&) noexcept = default;
ReplyReader& ReplyReader::operator=(ReplyReader&&) noexcept = default;

void ReplyReader::feed(ByteView bytes) {
  state_->receiver.feed(bytes);
}

std::optional<Version> ReplyReader::read_hello(Version client) {
  return state_->receiver.guarded([&] {
    state_->hello.set_own(client);
    return state_->hello.version(state_->receiver);
  });
}

std::optional<model::StorePaths> ReplyReader::read_paths() {
  return state_->take(
      "paths reply",
      [&](wire::Shape& shape) { wire::PathList::shape(shape, "paths", kNewestVersion); },
      [](wire::Decoder& decoder) {
        decoder.enter("paths");
        model::StorePaths out;
        wire::PathList::read(decoder, out);
        return out;
      });
}

std::optional<std::optional<PathInfoReply>> ReplyReader::read_path_info() {
  return state_->take(
      "QueryPathInfos reply",
      [&](wire::Shape& shape) { path_info_shape(shape, state_->version()); },
      decode_path_info);
}

std::optional<std::uint64_t> ReplyReader::read_number() {
  return state_->take(
      "number reply",
      [](wire::Shape& shape) { shape.add(wire::StepKind::Word, "number"); },
      [](wire::Decoder& decoder) { return decoder.word(); });
}

std::optional<std::pair<std::uint64_t, std::string>> ReplyReader::read_build_paths_reply() {
  return state_->take(
      "BuildPaths reply",
      [](wire::Shape& shape) {
        shape.add(wire::StepKind::WordOrSkip, "status", [&] {
          shape.add(wire::StepKind::String, "message");
        });
      },
      [](wire::Decoder& decoder) {
        const std::uint64_t status = decoder.word();
        return std::pair(status, status == 0 ? std::string() : std::string(decoder.string()));
      });
}

std::optional<model::BuildResult>
ReplyReader::read_build_result(std::map<std::string, Hash>* keys) {
  auto value = state_->take(
      "BuildDerivation reply",
      [&](wire::Shape& shape) { wire::shape_fields<BuildResultLayout>(shape, state_->version()); },
      [](wire::Decoder& decoder) {
        wire::KeyedResult out;
        wire::read_fields<BuildResultLayout>(decoder, out);
        return out;
      });
  if (!value) {
    return std::nullopt;
  }
  if (keys != nullptr) {
    *keys = std::move(value->keys);
  }
  return std::move(value->result);
}

ByteView ReplyReader::raw() const noexcept {
  return state_->receiver.view();
}

void ReplyReader::consume_raw(std::size_t count) {
  state_->receiver.consume(count);
}

bool ReplyReader::at_boundary() const noexcept {
  return state_->receiver.empty() && !state_->hello.in_progress();
}

} // namespace nixbuild::protocol::serve
