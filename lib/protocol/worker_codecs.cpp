#include "protocol/worker_codecs.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <utility>

namespace nixbuild::protocol::worker {

namespace {

constexpr std::size_t kShownBytes = 200;

[[noreturn]] void reject(std::string_view code, std::string message) {
  throw Error(Reaction::Reject, code, std::move(message));
}

DerivedPathForm form_of(const Dialect& dialect) {
  return dialect.version < Version{1, 30} ? DerivedPathForm::Bare : DerivedPathForm::Marked;
}

void two_strings(Shape& shape, std::string_view field) {
  shape.add(StepKind::String, field);
  shape.add(StepKind::String, field);
}

std::string read_output_name(Decoder& decoder) {
  const std::string_view name = decoder.string();
  if (!model::valid_output_name(name)) {
    reject("wire.realisation",
           fmt::format("'{}' is no name of an output", name.substr(0, kShownBytes)));
  }
  return std::string(name);
}

/// The id of what is known by hash; derivations known by path have none.
std::string printed_id(const DrvOutput& id) {
  const auto* hash = std::get_if<Hash>(&id.derivation);
  if (hash == nullptr) {
    reject("worker.realisation", "the peer knows derivations by hash, not by path");
  }
  return wire::print_output_key({*hash, id.output});
}

DrvOutput parsed_id(std::string_view text) {
  wire::OutputKey key = wire::parse_output_key(text);
  return {key.hash, std::move(key.output)};
}

} // namespace

void BuildModeNumber::read(Decoder& decoder, BuildMode& out) {
  const std::uint32_t number = decoder.small();
  if (number > static_cast<std::uint32_t>(BuildMode::Check)) {
    reject("worker.mode", fmt::format("{} is no build mode", number));
  }
  out = static_cast<BuildMode>(number);
}

void BuildModeNumber::write(Encoder& encoder, BuildMode value) {
  encoder.word(static_cast<std::uint64_t>(value));
}

void GcActionNumber::read(Decoder& decoder, GcAction& out) {
  const std::uint32_t number = decoder.small();
  if (number > static_cast<std::uint32_t>(GcAction::DeleteSpecific)) {
    reject("worker.action", fmt::format("{} is no action of CollectGarbage", number));
  }
  out = static_cast<GcAction>(number);
}

void GcActionNumber::write(Encoder& encoder, GcAction value) {
  encoder.word(static_cast<std::uint64_t>(value));
}

void MethodText::read(Decoder& decoder, model::MethodAlgorithm& out) {
  constexpr std::string_view kFixed = "fixed:";
  const std::string_view text = decoder.string();
  const bool fixed = text.starts_with(kFixed);
  if (!fixed && !text.starts_with("text:")) {
    reject("worker.method",
           fmt::format("'{}' is no content address method", text.substr(0, kShownBytes)));
  }
  out = model::parse_method_algorithm(fixed ? text.substr(kFixed.size()) : text);
  if (fixed == (out.method == model::ContentAddressMethod::Text)) {
    reject("worker.method",
           fmt::format("'{}' is no content address method", text.substr(0, kShownBytes)));
  }
}

void MethodText::write(Encoder& encoder, const model::MethodAlgorithm& value) {
  const bool fixed = value.method != model::ContentAddressMethod::Text;
  encoder.string((fixed ? "fixed:" : "") + model::print(value));
}

void MethodFlags::shape(Shape& shape, std::string_view field, const Dialect&) {
  shape.add(StepKind::Word, field);
  shape.add(StepKind::Word, field);
  shape.add(StepKind::String, field);
}

void MethodFlags::read(Decoder& decoder, model::MethodAlgorithm& out) {
  const bool other = decoder.small() != 0;
  const std::uint32_t recursive = decoder.small();
  const std::string_view name = decoder.string();
  if (!other) { // What else stands there does not count.
    out = {model::ContentAddressMethod::NixArchive, HashAlgorithm::Sha256};
    return;
  }
  const auto algorithm = hash_algorithm_of(name);
  if (recursive > 1 || !algorithm) {
    reject("worker.method",
           fmt::format("'{}' with {} is no content address method",
                       name.substr(0, kShownBytes),
                       recursive));
  }
  out = {recursive == 1 ? model::ContentAddressMethod::NixArchive
                        : model::ContentAddressMethod::Flat,
         *algorithm};
}

void MethodFlags::write(Encoder& encoder, const model::MethodAlgorithm& value) {
  const bool recursive = value.method == model::ContentAddressMethod::NixArchive;
  if (!recursive && value.method != model::ContentAddressMethod::Flat) {
    reject("worker.method",
           fmt::format("AddToStore cannot say '{}' before version 1.25", model::print(value)));
  }
  encoder.word(recursive && value.algorithm == HashAlgorithm::Sha256 ? 0 : 1);
  encoder.word(recursive ? 1 : 0);
  encoder.string(nixbuild::name_of(value.algorithm));
}

void DerivedPathText::read(Decoder& decoder, DerivedPath& out) {
  out = parse_derived_path(decoder.dir(), decoder.string(), form_of(decoder.dialect()));
}

void DerivedPathText::write(Encoder& encoder, const DerivedPath& value) {
  encoder.string(print(encoder.dir(), value, form_of(encoder.dialect())));
}

void DerivedPaths::read(Decoder& decoder, std::vector<DerivedPath>& out) {
  const std::size_t count = decoder.count();
  const DerivedPathForm form = form_of(decoder.dialect());
  out.clear();
  out.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    out.push_back(parse_derived_path(decoder.dir(), decoder.string(), form));
  }
}

void DerivedPaths::write(Encoder& encoder, const std::vector<DerivedPath>& value) {
  encoder.word(value.size());
  for (const auto& path : value) {
    DerivedPathText::write(encoder, path);
  }
}

void BaseName::read(Decoder& decoder, model::StorePath& out) {
  out = model::StorePath::parse(decoder.string());
}

void BaseName::write(Encoder& encoder, const model::StorePath& value) {
  encoder.string(value.base_name());
}

void GarbagePaths::read(Decoder& decoder, CollectGarbage& out) {
  wire::PathSet::read(decoder, out.paths);
  out.whole_store = out.action != GcAction::DeleteSpecific;
}

void GarbagePaths::write(Encoder& encoder, const CollectGarbage& value) {
  wire::PathSet::write(encoder, value.paths);
}

void GarbageScope::shape(Shape& shape, std::string_view field, const Dialect& dialect) {
  shape.add(StepKind::SkipOnWord, field, [&] {
    wire::PathSet::shape(shape, field, dialect);
    shape.add(StepKind::Word, field);
  });
}

void GarbageScope::read(Decoder& decoder, CollectGarbage& out) {
  wire::Flag::read(decoder, out.whole_store);
  if (!out.whole_store) {
    wire::PathSet::read(decoder, out.paths);
    wire::Flag::read(decoder, out.delete_referrers);
  }
}

void GarbageScope::write(Encoder& encoder, const CollectGarbage& value) {
  wire::Flag::write(encoder, value.whole_store);
  if (!value.whole_store) {
    wire::PathSet::write(encoder, value.paths);
    wire::Flag::write(encoder, value.delete_referrers);
  }
}

void PathAddressMap::shape(Shape& shape, std::string_view field, const Dialect&) {
  shape.add(StepKind::Repeat, field, [&] { two_strings(shape, field); });
}

void PathAddressMap::read(Decoder& decoder, std::map<model::StorePath, std::string>& out) {
  const std::size_t count = decoder.count();
  for (std::size_t i = 0; i < count; ++i) {
    model::StorePath path = decoder.path();
    out.insert_or_assign(out.end(), std::move(path), std::string(decoder.text()));
  }
}

void PathAddressMap::write(Encoder& encoder, const std::map<model::StorePath, std::string>& value) {
  encoder.word(value.size());
  for (const auto& [path, address] : value) {
    encoder.path(path);
    encoder.string(address);
  }
}

void PathKeys::read(Decoder& decoder, std::map<model::StorePath, std::string>& out) {
  const std::size_t count = decoder.count();
  for (std::size_t i = 0; i < count; ++i) {
    out.insert_or_assign(out.end(), decoder.path(), std::string());
  }
}

void PathKeys::write(Encoder& encoder, const std::map<model::StorePath, std::string>& value) {
  encoder.word(value.size());
  for (const auto& [path, address] : value) {
    encoder.path(path);
  }
}

void OutputByPath::shape(Shape& shape, std::string_view field, const Dialect&) {
  two_strings(shape, field);
}

void OutputByPath::read(Decoder& decoder, DrvOutput& out) {
  out.derivation = decoder.path();
  out.output = read_output_name(decoder);
}

void OutputByPath::write(Encoder& encoder, const DrvOutput& value) {
  const auto* path = std::get_if<model::StorePath>(&value.derivation);
  if (path == nullptr) {
    reject("worker.realisation", "the peer knows derivations by path, not by hash");
  }
  encoder.path(*path);
  encoder.string(value.output);
}

void OutputByHash::read(Decoder& decoder, DrvOutput& out) {
  out = parsed_id(decoder.string());
}

void OutputByHash::write(Encoder& encoder, const DrvOutput& value) {
  encoder.string(printed_id(value));
}

void PlainRealisation::shape(Shape& shape, std::string_view field, const Dialect& dialect) {
  shape.add(StepKind::String, field);
  wire::Texts::shape(shape, field, dialect);
}

void PlainRealisation::read(Decoder& decoder, model::Realisation& out) {
  out.path = decoder.path();
  wire::Texts::read(decoder, out.signatures);
}

void PlainRealisation::write(Encoder& encoder, const model::Realisation& value) {
  encoder.path(value.path);
  wire::Texts::write(encoder, value.signatures);
}

void RealisationText::read(Decoder& decoder, RegisterDrvOutput& out) {
  auto value = wire::parse_realisation(decoder.string());
  out.id = parsed_id(value.id);
  out.realisation = std::move(value.realisation);
}

void RealisationText::write(Encoder& encoder, const RegisterDrvOutput& value) {
  encoder.string(wire::print_realisation(printed_id(value.id), value.realisation));
}

} // namespace nixbuild::protocol::worker
