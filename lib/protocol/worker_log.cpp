#include "protocol/worker_log_tables.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/worker.hpp>

#include <fmt/format.h>

#include <utility>

namespace nixbuild::protocol::worker {

namespace {

constexpr std::size_t kShownLogBytes = 200;
constexpr std::string_view kErrorType = "Error";

[[noreturn]] void reject(std::string message) {
  throw Error(Reaction::Reject, "worker.message", std::move(message));
}

void read_no_position(Decoder& decoder) {
  if (decoder.small() != 0) {
    reject("an error comes with a position");
  }
}

} // namespace

void LevelNumber::read(Decoder& decoder, Level& out) {
  const std::uint32_t number = decoder.small();
  if (number > static_cast<std::uint32_t>(Level::Vomit)) {
    reject(fmt::format("{} is no level of messages", number));
  }
  out = static_cast<Level>(number);
}

void LevelNumber::write(Encoder& encoder, Level value) {
  encoder.word(static_cast<std::uint64_t>(value));
}

void LogFields::shape(Shape& shape, std::string_view field, const Dialect&) {
  shape.add(StepKind::Repeat, field, [&] { shape.add(StepKind::WordOrString, field); });
}

void LogFields::read(Decoder& decoder, std::vector<LogField>& out) {
  const std::size_t count = decoder.count();
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t tag = decoder.word();
    if (tag > 1) {
      reject(fmt::format("field {} has the unknown type {}", i, tag));
    }
    if (tag == 0) {
      out.emplace_back(decoder.word());
    } else {
      out.emplace_back(std::string(decoder.string()));
    }
  }
}

void LogFields::write(Encoder& encoder, const std::vector<LogField>& value) {
  encoder.word(value.size());
  for (const auto& field : value) {
    encoder.word(field.index());
    if (const auto* number = std::get_if<std::uint64_t>(&field)) {
      encoder.word(*number);
    } else {
      encoder.string(std::get<std::string>(field));
    }
  }
}

void ErrorType::read(Decoder& decoder, Failure&) {
  const std::string_view type = decoder.string();
  if (type != kErrorType) {
    reject(fmt::format("'{}' stands where an error begins", type.substr(0, kShownLogBytes)));
  }
}

void ErrorType::write(Encoder& encoder, const Failure&) {
  encoder.string(kErrorType);
}

void NoPosition::read(Decoder& decoder, Failure&) {
  read_no_position(decoder);
}

void NoPosition::write(Encoder& encoder, const Failure&) {
  encoder.word(0);
}

void Traces::shape(Shape& shape, std::string_view field, const Dialect&) {
  shape.add(StepKind::Repeat, field, [&] {
    shape.add(StepKind::Word, field);
    shape.add(StepKind::String, field);
  });
}

void Traces::read(Decoder& decoder, Failure& out) {
  const std::size_t count = decoder.count();
  for (std::size_t i = 0; i < count; ++i) {
    read_no_position(decoder);
    out.traces.emplace_back(decoder.string());
  }
}

void Traces::write(Encoder& encoder, const Failure& value) {
  encoder.word(value.traces.size());
  for (const auto& trace : value.traces) {
    encoder.word(0);
    encoder.string(trace);
  }
}

void write_log(std::string& out, const Peer& peer, const LogMessage& message) {
  const LogForm& form = kLogForms[message.index()];
  if (peer.version < form.since) {
    return;
  }
  const model::StoreDir no_paths;
  Encoder encoder(out, no_paths, dialect_of(peer));
  encoder.word(form.code);
  std::visit([&]<class M>(const M& value) { wire::write_fields<Layout<M>>(encoder, value); },
             message);
}

} // namespace nixbuild::protocol::worker
