#include "protocol/hello.hpp"
#include "protocol/receiver.hpp"
#include "protocol/serve_tables.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/serve.hpp>

#include <fmt/format.h>

#include <algorithm>

namespace nixbuild::protocol::serve {

namespace {

const Operation& operation_numbered(std::uint64_t number, Version version) {
  const auto row = std::find_if(kOperations.begin(), kOperations.end(), [&](const Operation& one) {
    return one.number == number;
  });
  if (row == kOperations.end() || version < row->since) {
    throw Error(Reaction::Reject,
                "serve.command",
                fmt::format("there is no serve command {} in version {}.{}",
                            number,
                            version.major_number(),
                            version.minor_number()));
  }
  return *row;
}

} // namespace

std::string_view name_of(const Request& request) noexcept {
  return kOperations[request.index()].name;
}

std::uint64_t command_of(const Request& request) noexcept {
  return kOperations[request.index()].number;
}

bool needs_write(const Request& request) noexcept {
  return kOperations[request.index()].needs_write;
}

Permission permission_of(const Request& request) noexcept {
  return kOperations[request.index()].permission;
}

void write_client_hello(std::string& out, Version version) {
  wire::append_word(out, kClientMagic);
  wire::append_word(out, version.word());
}

void write_request(std::string& out,
                   const model::StoreDir& dir,
                   Version version,
                   const Request& request) {
  const Operation& row = operation_numbered(command_of(request), version);
  wire::Encoder encoder(out, dir, version);
  encoder.word(row.number);
  std::visit([&]<class R>(const R& value) { wire::write_fields<Layout<R>>(encoder, value); },
             request);
}

struct RequestReader::State {
  State(model::StoreDir dir, Limits limits, Version server)
      : receiver(std::move(dir), limits), hello(kServeHello, kClientMagic, server) {}

  std::optional<Request> next() {
    const auto version = hello.version(receiver);
    if (!version) {
      return std::nullopt;
    }
    const auto number = receiver.peek_word();
    if (!number) {
      return std::nullopt;
    }
    const Operation& row = operation_numbered(*number, *version);
    return receiver.take(
        row.name,
        *version,
        [&](wire::Shape& shape) {
          shape.add(wire::StepKind::Word, "command");
          row.shape(shape, *version);
        },
        [&](wire::Decoder& decoder) {
          static_cast<void>(decoder.word());
          return row.read(decoder);
        });
  }

  wire::Receiver receiver;
  wire::HelloReader hello;
};

RequestReader::RequestReader(model::StoreDir dir, Limits limits, Version server)
    : state_(std::make_unique<State>(std::move(dir), limits, server)) {}

RequestReader::~RequestReader() = default;
RequestReader::RequestReader(RequestReader&&) noexcept = default;
RequestReader& RequestReader::operator=(RequestReader&&) noexcept = default;

void RequestReader::feed(ByteView bytes) {
  state_->receiver.feed(bytes);
}

bool RequestReader::magic_received() {
  return state_->receiver.guarded([&] { return state_->hello.magic(state_->receiver); });
}

std::optional<Version> RequestReader::version() {
  return state_->receiver.guarded([&] { return state_->hello.version(state_->receiver); });
}

std::optional<Request> RequestReader::next() {
  return state_->receiver.guarded([&] { return state_->next(); });
}

ByteView RequestReader::raw() const noexcept {
  return state_->receiver.view();
}

void RequestReader::consume_raw(std::size_t count) {
  state_->receiver.consume(count);
}

bool RequestReader::at_boundary() const noexcept {
  return state_->receiver.empty() && !state_->hello.in_progress();
}

} // namespace nixbuild::protocol::serve
