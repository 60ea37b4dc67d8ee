#include "protocol/receiver.hpp"
#include "protocol/worker_greeting.hpp"
#include "protocol/worker_log_tables.hpp"
#include "protocol/worker_reply_tables.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/worker.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nixbuild::protocol::worker {

namespace {

const LogForm& form_with_code(std::uint64_t code) {
  const auto form = std::find_if(
      kLogForms.begin(), kLogForms.end(), [&](const LogForm& one) { return one.code == code; });
  if (form == kLogForms.end()) {
    throw Error(Reaction::Reject, "worker.message", fmt::format("{:#x} begins no message", code));
  }
  return *form;
}

const ReplyForm& reply_to(const Request& request, Version version) {
  const bool old_add =
      std::holds_alternative<AddToStore>(request) && version < kPathInfoFromAddToStore;
  return kReplyForms[old_add ? index_in<Reply, PathReply>() : kOperations[request.index()].reply];
}

/// What the reply leaves to the request.
void complete(Reply& reply, const Request& request) {
  if (auto* info = std::get_if<QueryPathInfoReply>(&reply); info != nullptr && info->info) {
    info->info->path = std::get<QueryPathInfo>(request).path;
  }
  if (auto* found = std::get_if<RealisationsReply>(&reply)) {
    const DrvOutput& asked = std::get<QueryRealisation>(request).id;
    if (found->id != DrvOutput() && found->id != asked) {
      throw Error(
          Reaction::Reject, "wire.realisation", "a realisation of another output is returned");
    }
    found->id = asked;
  }
}

} // namespace

void write_reply(std::string& out,
                 const model::StoreDir& dir,
                 const Peer& peer,
                 const Reply& reply) {
  Encoder encoder(out, dir, dialect_of(peer));
  std::visit([&]<class R>(const R& value) { wire::write_fields<Layout<R>>(encoder, value); },
             reply);
}

struct ReplyReader::State {
  State(model::StoreDir dir, Limits limits, Version client, Features features)
      : receiver(std::move(dir), limits), greeting(client, std::move(features)) {}

  [[nodiscard]] const Peer& peer() const {
    if (!greeting.peer()) {
      throw Error(
          Reaction::Internal, "worker.greeting", "a reply is read before the server's greeting");
    }
    return *greeting.peer();
  }

  std::optional<LogMessage> log() {
    const Dialect dialect = dialect_of(peer());
    const auto code = receiver.peek_word();
    if (!code) {
      return std::nullopt;
    }
    const LogForm& form = form_with_code(*code);
    return receiver.take(
        form.name,
        dialect,
        [&](Shape& shape) {
          shape.add(StepKind::Word, "code");
          form.shape(shape, dialect);
        },
        [&](Decoder& decoder) {
          static_cast<void>(decoder.word());
          return form.read(decoder);
        });
  }

  std::optional<Reply> reply(const Request& request) {
    const Dialect dialect = dialect_of(peer());
    const ReplyForm& form = reply_to(request, dialect.version);
    return receiver.take(
        form.name,
        dialect,
        [&](Shape& shape) { form.shape(shape, dialect); },
        [&](Decoder& decoder) {
          Reply out = form.read(decoder);
          complete(out, request);
          return out;
        });
  }

  wire::Receiver receiver;
  ClientGreeting greeting;
};

ReplyReader::ReplyReader(model::StoreDir dir, Limits limits, Version client, Features features)
    : state_(std::make_unique<State>(std::move(dir), limits, client, std::move(features))) {}

ReplyReader::~ReplyReader() = default;
ReplyReader::ReplyReader(ReplyReader&&) noexcept = default;
ReplyReader& ReplyReader::operator=(ReplyReader&&) noexcept = default;

void ReplyReader::feed(ByteView bytes) {
  state_->receiver.feed(bytes);
}

std::optional<Version> ReplyReader::read_hello() {
  return state_->receiver.guarded([&] { return state_->greeting.version(state_->receiver); });
}

std::optional<Welcome> ReplyReader::read_welcome() {
  return state_->receiver.guarded([&] { return state_->greeting.welcome(state_->receiver); });
}

std::optional<LogMessage> ReplyReader::read_log() {
  return state_->receiver.guarded([&] { return state_->log(); });
}

std::optional<Reply> ReplyReader::read_reply(const Request& request) {
  return state_->receiver.guarded([&] { return state_->reply(request); });
}

ByteView ReplyReader::raw() const noexcept {
  return state_->receiver.view();
}

void ReplyReader::consume_raw(std::size_t count) {
  state_->receiver.consume(count);
}

bool ReplyReader::at_boundary() const noexcept {
  return state_->receiver.empty() && !state_->greeting.in_progress();
}

} // namespace nixbuild::protocol::worker
