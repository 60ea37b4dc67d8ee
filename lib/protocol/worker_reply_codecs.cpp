#include "protocol/worker_codecs.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <utility>

namespace nixbuild::protocol::worker {

namespace {

/// A word that says whether the rest stands there.
bool read_presence(Decoder& decoder) {
  return decoder.small() != 0;
}

[[noreturn]] void reject_output(std::string message) {
  throw Error(Reaction::Reject, "wire.realisation", std::move(message));
}

} // namespace

void OptionalDuration::shape(Shape& shape, std::string_view field, const Dialect&) {
  shape.add(StepKind::WordOrSkip, field, [&] { shape.add(StepKind::Word, field); });
}

void OptionalDuration::read(Decoder& decoder, std::optional<std::chrono::microseconds>& out) {
  out.reset();
  if (read_presence(decoder)) {
    out = std::chrono::microseconds(static_cast<std::int64_t>(decoder.word()));
  }
}

void OptionalDuration::write(Encoder& encoder,
                             const std::optional<std::chrono::microseconds>& value) {
  encoder.word(value ? 1 : 0);
  if (value) {
    encoder.word(static_cast<std::uint64_t>(value->count()));
  }
}

void OptionalPathFacts::shape(Shape& shape, std::string_view field, const Dialect& dialect) {
  shape.add(StepKind::WordOrSkip, field, [&] {
    wire::shape_fields<wire::PathFactsLayout>(shape, dialect);
  });
}

void OptionalPathFacts::read(Decoder& decoder, std::optional<model::PathInfo>& out) {
  out.reset();
  if (read_presence(decoder)) {
    wire::read_fields<wire::PathFactsLayout>(decoder, out.emplace(wire::blank_path_info()));
  }
}

void OptionalPathFacts::write(Encoder& encoder, const std::optional<model::PathInfo>& value) {
  encoder.word(value ? 1 : 0);
  if (value) {
    wire::write_fields<wire::PathFactsLayout>(encoder, *value);
  }
}

void Roots::shape(Shape& shape, std::string_view field, const Dialect&) {
  shape.add(StepKind::Repeat, field, [&] {
    shape.add(StepKind::String, field);
    shape.add(StepKind::String, field);
  });
}

void Roots::read(Decoder& decoder, Value& out) {
  const std::size_t count = decoder.count();
  out.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    std::string link(decoder.text());
    out.emplace_back(std::move(link), decoder.path());
  }
}

void Roots::write(Encoder& encoder, const Value& value) {
  encoder.word(value.size());
  for (const auto& [link, target] : value) {
    encoder.string(link);
    encoder.path(target);
  }
}

void OptionalSubstitutable::shape(Shape& shape, std::string_view field, const Dialect& dialect) {
  shape.add(StepKind::WordOrSkip, field, [&] {
    wire::shape_fields<SubstitutableLayout>(shape, dialect);
  });
}

void OptionalSubstitutable::read(Decoder& decoder, std::optional<SubstitutableInfo>& out) {
  out.reset();
  if (read_presence(decoder)) {
    wire::read_fields<SubstitutableLayout>(decoder, out.emplace());
  }
}

void OptionalSubstitutable::write(Encoder& encoder, const std::optional<SubstitutableInfo>& value) {
  encoder.word(value ? 1 : 0);
  if (value) {
    wire::write_fields<SubstitutableLayout>(encoder, *value);
  }
}

void SubstitutableMap::shape(Shape& shape, std::string_view field, const Dialect& dialect) {
  shape.add(StepKind::Repeat, field, [&] {
    shape.add(StepKind::String, field);
    wire::shape_fields<SubstitutableLayout>(shape, dialect);
  });
}

void SubstitutableMap::read(Decoder& decoder, Value& out) {
  const std::size_t count = decoder.count();
  for (std::size_t i = 0; i < count; ++i) {
    model::StorePath path = decoder.path();
    SubstitutableInfo info;
    wire::read_fields<SubstitutableLayout>(decoder, info);
    out.insert_or_assign(std::move(path), std::move(info));
  }
}

void SubstitutableMap::write(Encoder& encoder, const Value& value) {
  encoder.word(value.size());
  for (const auto& [path, info] : value) {
    encoder.path(path);
    wire::write_fields<SubstitutableLayout>(encoder, info);
  }
}

void OutputPathMap::shape(Shape& shape, std::string_view field, const Dialect&) {
  shape.add(StepKind::Repeat, field, [&] {
    shape.add(StepKind::String, field);
    shape.add(StepKind::String, field);
  });
}

void OutputPathMap::read(Decoder& decoder, Value& out) {
  const std::size_t count = decoder.count();
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view name = decoder.string();
    if (!model::valid_output_name(name)) {
      reject_output(fmt::format("output {} has no valid name", i));
    }
    wire::OptionalPath::read(decoder, out[std::string(name)]);
  }
}

void OutputPathMap::write(Encoder& encoder, const Value& value) {
  encoder.word(value.size());
  for (const auto& [name, path] : value) {
    encoder.string(name);
    wire::OptionalPath::write(encoder, path);
  }
}

void TargetResults::shape(Shape& shape, std::string_view field, const Dialect& dialect) {
  shape.add(StepKind::Repeat, field, [&] {
    shape.add(StepKind::String, field);
    wire::shape_fields<BuildResultLayout>(shape, dialect);
  });
}

void TargetResults::read(Decoder& decoder, std::vector<TargetResult>& out) {
  const std::size_t count = decoder.count();
  for (std::size_t i = 0; i < count; ++i) {
    TargetResult one{{wire::placeholder_path(), DerivedPath::Wants::Path, {}}, {}};
    DerivedPathText::read(decoder, one.target);
    wire::read_fields<BuildResultLayout>(decoder, one.reply);
    out.push_back(std::move(one));
  }
}

void TargetResults::write(Encoder& encoder, const std::vector<TargetResult>& value) {
  encoder.word(value.size());
  for (const auto& one : value) {
    DerivedPathText::write(encoder, one.target);
    wire::write_fields<BuildResultLayout>(encoder, one.reply);
  }
}

void OptionalRealisation::shape(Shape& shape, std::string_view field, const Dialect& dialect) {
  shape.add(StepKind::WordOrSkip, field, [&] { PlainRealisation::shape(shape, field, dialect); });
}

void OptionalRealisation::read(Decoder& decoder, RealisationsReply& out) {
  if (read_presence(decoder)) {
    out.realisations.push_back(model::Realisation{wire::placeholder_path(), {}});
    PlainRealisation::read(decoder, out.realisations.back());
  }
}

void OptionalRealisation::write(Encoder& encoder, const RealisationsReply& value) {
  if (value.realisations.size() > 1) {
    throw Error(Reaction::Reject, "worker.realisation", "the peer takes one realisation at most");
  }
  encoder.word(value.realisations.size());
  for (const auto& realisation : value.realisations) {
    PlainRealisation::write(encoder, realisation);
  }
}

void RealisationTexts::read(Decoder& decoder, RealisationsReply& out) {
  const std::size_t count = decoder.count();
  for (std::size_t i = 0; i < count; ++i) {
    auto value = wire::parse_realisation(decoder.string());
    wire::OutputKey key = wire::parse_output_key(value.id);
    DrvOutput id{key.hash, std::move(key.output)};
    if (i > 0 && out.id != id) {
      reject_output("the realisations are of several outputs");
    }
    out.id = std::move(id);
    out.realisations.push_back(std::move(value.realisation));
  }
}

void RealisationTexts::write(Encoder& encoder, const RealisationsReply& value) {
  encoder.word(value.realisations.size());
  for (const auto& realisation : value.realisations) {
    RealisationText::write(encoder, {value.id, realisation});
  }
}

void RealisationPaths::read(Decoder& decoder, RealisationsReply& out) {
  const std::size_t count = decoder.count();
  for (std::size_t i = 0; i < count; ++i) {
    out.realisations.push_back({decoder.path(), {}});
  }
}

void RealisationPaths::write(Encoder& encoder, const RealisationsReply& value) {
  encoder.word(value.realisations.size());
  for (const auto& realisation : value.realisations) {
    encoder.path(realisation.path);
  }
}

} // namespace nixbuild::protocol::worker
