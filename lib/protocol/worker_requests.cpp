#include "protocol/receiver.hpp"
#include "protocol/worker_greeting.hpp"
#include "protocol/worker_tables.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/worker.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nixbuild::protocol::worker {

namespace {

/// The text that Nix's daemon says, too.
const Operation& operation_numbered(std::uint64_t number, Version version) {
  const auto row = std::find_if(kOperations.begin(), kOperations.end(), [&](const Operation& one) {
    return one.number == number;
  });
  if (row == kOperations.end() || version < row->since) {
    throw Error(Reaction::Reject, "worker.operation", fmt::format("invalid operation {}", number));
  }
  return *row;
}

} // namespace

std::string_view name_of(const Request& request) noexcept {
  return kOperations[request.index()].name;
}

std::uint64_t operation_of(const Request& request) noexcept {
  return kOperations[request.index()].number;
}

namespace {

/// Clients "build" the paths that they are about to copy, which is a question whether they are
/// there.
template <class Build>
bool builds_nothing(const Request& request) noexcept {
  const auto* build = std::get_if<Build>(&request);
  return build != nullptr && build->mode == BuildMode::Normal && !build->targets.empty() &&
         std::all_of(build->targets.begin(), build->targets.end(), [](const DerivedPath& target) {
           return target.wants == DerivedPath::Wants::Path;
         });
}

} // namespace

Permission permission_of(const Request& request) noexcept {
  const auto* garbage = std::get_if<CollectGarbage>(&request);
  if (garbage != nullptr &&
      (garbage->action == GcAction::ReturnLive || garbage->action == GcAction::ReturnDead)) {
    return Permission::StoreRead; // only tells
  }
  return builds_nothing<BuildPaths>(request) || builds_nothing<BuildPathsWithResults>(request)
             ? Permission::StoreRead
             : kOperations[request.index()].permission;
}

Payload payload_of(const Request& request, const Peer& peer) noexcept {
  if (std::holds_alternative<AddMultipleToStore>(request) ||
      std::holds_alternative<AddBuildLog>(request)) {
    return Payload::Framed;
  }
  if (std::holds_alternative<AddToStore>(request)) {
    return peer.version < Version{1, 25} ? Payload::Nar : Payload::Framed;
  }
  if (std::holds_alternative<AddToStoreNar>(request)) {
    return peer.version < Version{1, 21}   ? Payload::Nar
           : peer.version < Version{1, 23} ? Payload::Pulled
                                           : Payload::Framed;
  }
  return Payload::None;
}

void write_request(std::string& out,
                   const model::StoreDir& dir,
                   const Peer& peer,
                   const Request& request) {
  const Operation& row = operation_numbered(operation_of(request), peer.version);
  Encoder encoder(out, dir, dialect_of(peer));
  encoder.word(row.number);
  std::visit([&]<class R>(const R& value) { wire::write_fields<Layout<R>>(encoder, value); },
             request);
}

void write_pulled(std::string& out, ByteView bytes) {
  const model::StoreDir no_paths;
  Encoder encoder(out, no_paths, kNewestVersion);
  encoder.string(text_of(bytes));
}

struct RequestReader::State {
  State(model::StoreDir dir, Limits limits, Version server, Features features)
      : receiver(std::move(dir), limits), greeting(server, std::move(features)) {}

  std::optional<Request> next() {
    if (!greeting.peer()) {
      return std::nullopt;
    }
    const auto number = receiver.peek_word();
    if (!number) {
      return std::nullopt;
    }
    const Dialect dialect = dialect_of(*greeting.peer());
    const Operation& row = operation_numbered(*number, dialect.version);
    return receiver.take(
        row.name,
        dialect,
        [&](Shape& shape) {
          shape.add(StepKind::Word, "operation");
          row.shape(shape, dialect);
        },
        [&](Decoder& decoder) {
          static_cast<void>(decoder.word());
          return row.read(decoder);
        });
  }

  std::optional<std::string> pulled(std::uint64_t most) {
    const auto size = receiver.peek_word();
    if (!size) {
      return std::nullopt;
    }
    if (*size > most) {
      throw Error(Reaction::Reject,
                  "worker.pulled",
                  fmt::format("the client sends {} bytes where {} were asked for", *size, most));
    }
    return receiver.take(
        "pulled bytes",
        kNewestVersion,
        [](Shape& shape) { shape.add(StepKind::String, "bytes"); },
        [](Decoder& decoder) { return std::string(decoder.string()); });
  }

  wire::Receiver receiver;
  ServerGreeting greeting;
};

RequestReader::RequestReader(model::StoreDir dir, Limits limits, Version server, Features features)
    : state_(std::make_unique<State>(std::move(dir), limits, server, std::move(features))) {}

RequestReader::~RequestReader() = default;
RequestReader::RequestReader(RequestReader&&) noexcept = default;
RequestReader& RequestReader::operator=(RequestReader&&) noexcept = default;

void RequestReader::feed(ByteView bytes) {
  state_->receiver.feed(bytes);
}

std::optional<GreetingStep> RequestReader::greeting() {
  return state_->receiver.guarded([&] { return state_->greeting.next(state_->receiver); });
}

const std::optional<Peer>& RequestReader::peer() const noexcept {
  return state_->greeting.peer();
}

std::optional<Request> RequestReader::next() {
  return state_->receiver.guarded([&] { return state_->next(); });
}

std::optional<std::string> RequestReader::next_pulled(std::uint64_t most) {
  return state_->receiver.guarded([&] { return state_->pulled(most); });
}

ByteView RequestReader::raw() const noexcept {
  return state_->receiver.view();
}

void RequestReader::consume_raw(std::size_t count) {
  state_->receiver.consume(count);
}

bool RequestReader::at_boundary() const noexcept {
  return state_->receiver.empty() && !state_->greeting.in_progress();
}

} // namespace nixbuild::protocol::worker
