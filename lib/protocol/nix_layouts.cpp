#include "protocol/nix_layouts.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

namespace nixbuild::protocol::wire {

const model::StorePath& placeholder_path() {
  static const model::StorePath path(Bytes(20), "placeholder");
  return path;
}

model::PathInfo blank_path_info() {
  return {.path = placeholder_path(),
          .deriver = {},
          .nar_hash = {},
          .nar_size = 0,
          .references = {},
          .registration_time = 0,
          .ultimate = false,
          .signatures = {},
          .content_address = {}};
}

void DerivationPath::read(Decoder& decoder, model::StorePath& out) {
  out = decoder.path();
  if (!out.is_derivation()) {
    throw Error(Reaction::Reject,
                "derivation.path",
                fmt::format("'{}' does not end in .drv", out.base_name()));
  }
}

void DerivationOutputs::shape(Shape& shape, std::string_view field, const Dialect&) {
  shape.add(StepKind::Repeat, field, [&] {
    for (int part = 0; part < 4; ++part) {
      shape.add(StepKind::String, field);
    }
  });
}

void DerivationOutputs::read(Decoder& decoder,
                             std::map<std::string, model::DerivationOutput>& out) {
  const std::size_t count = decoder.count();
  out.clear();
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view name = decoder.string();
    if (!model::valid_output_name(name)) {
      throw Error(
          Reaction::Reject, "derivation.output", fmt::format("output {} has no valid name", i));
    }
    const auto [entry, is_new] = out.try_emplace(std::string(name));
    if (!is_new) {
      throw Error(
          Reaction::Reject, "derivation.outputs", fmt::format("output '{}' stands twice", name));
    }
    OptionalPath::read(decoder, entry->second.path);
    entry->second.method_algorithm = decoder.text();
    entry->second.hash = decoder.text();
    static_cast<void>(entry->second.kind());
  }
}

void DerivationOutputs::write(Encoder& encoder,
                              const std::map<std::string, model::DerivationOutput>& value) {
  encoder.word(value.size());
  for (const auto& [name, output] : value) {
    encoder.string(name);
    OptionalPath::write(encoder, output.path);
    encoder.string(output.method_algorithm);
    encoder.string(output.hash);
  }
}

void TextMap::shape(Shape& shape, std::string_view field, const Dialect&) {
  shape.add(StepKind::Repeat, field, [&] {
    shape.add(StepKind::String, field);
    shape.add(StepKind::String, field);
  });
}

void TextMap::read(Decoder& decoder, std::map<std::string, std::string>& out) {
  const std::size_t count = decoder.count();
  out.clear();
  for (std::size_t i = 0; i < count; ++i) {
    std::string key(decoder.text());
    // Senders sort: the end is where it belongs.
    out.insert_or_assign(out.end(), std::move(key), std::string(decoder.text()));
  }
}

void TextMap::write(Encoder& encoder, const std::map<std::string, std::string>& value) {
  encoder.word(value.size());
  for (const auto& [key, text] : value) {
    encoder.string(key);
    encoder.string(text);
  }
}

void BuildStatusNumber::read(Decoder& decoder, model::BuildStatus& out) {
  const std::uint64_t number = decoder.word();
  if (number > static_cast<std::uint64_t>(model::BuildStatus::NoSubstituters)) {
    throw Error(Reaction::Reject, "wire.status", fmt::format("{} is no build status", number));
  }
  out = static_cast<model::BuildStatus>(number);
}

void BuildStatusNumber::write(Encoder& encoder, model::BuildStatus value) {
  encoder.word(static_cast<std::uint64_t>(value));
}

} // namespace nixbuild::protocol::wire
