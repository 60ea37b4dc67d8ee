#include "protocol/built_outputs.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/derivation.hpp>

#include <boost/json.hpp>
#include <fmt/format.h>

#include <utility>

namespace nixbuild::protocol::wire {

namespace {

constexpr std::size_t kShownBytes = 200;

[[noreturn]] void reject(std::string message) {
  throw Error(Reaction::Reject, "wire.realisation", std::move(message));
}

std::string_view string_member(const boost::json::object& object, std::string_view name) {
  const auto* value = object.if_contains(name);
  if (value == nullptr || !value->is_string()) {
    reject(fmt::format("a realisation has no text '{}'", name));
  }
  return value->get_string();
}

void add_output(Outputs& out, std::string name, model::Realisation realisation) {
  if (!out.try_emplace(std::move(name), std::move(realisation)).second) {
    reject("an output stands twice in a build result");
  }
}

std::vector<std::string> signatures_of(const boost::json::object& object) {
  std::vector<std::string> out;
  const auto* signatures = object.if_contains("signatures");
  if (signatures == nullptr) {
    return out;
  }
  if (!signatures->is_array()) {
    reject("the signatures of a realisation are no list");
  }
  for (const auto& signature : signatures->get_array()) {
    if (!signature.is_string()) {
      reject("a signature of a realisation is no text");
    }
    out.emplace_back(signature.get_string());
  }
  return out;
}

} // namespace

OutputKey parse_output_key(std::string_view text) {
  const auto mark = text.find('!');
  if (!text.starts_with("sha256:") || mark != 7 + 64 ||
      !model::valid_output_name(text.substr(mark + 1))) {
    reject(fmt::format("'{}' does not have the form sha256:<hex>!<output>",
                       text.substr(0, kShownBytes)));
  }
  return {model::parse_hash(text.substr(0, mark)), std::string(text.substr(mark + 1))};
}

std::string print_output_key(const OutputKey& key) {
  return fmt::format("sha256:{}!{}", model::hash_hex(key.hash), key.output);
}

std::string print_realisation(const std::string& id, const model::Realisation& realisation) {
  boost::json::array signatures;
  for (const auto& signature : realisation.signatures) {
    signatures.emplace_back(signature);
  }
  boost::json::object object;
  object["dependentRealisations"] = boost::json::object();
  object["id"] = id;
  object["outPath"] = realisation.path.base_name();
  object["signatures"] = std::move(signatures);
  return boost::json::serialize(object);
}

KeyedRealisation parse_realisation(std::string_view text) {
  boost::system::error_code error;
  boost::json::parse_options options;
  options.max_depth = 8;
  const auto value =
      boost::json::parse(boost::json::string_view(text.data(), text.size()), error, {}, options);
  if (error || !value.is_object()) {
    reject(fmt::format("'{}' is no JSON object", text.substr(0, kShownBytes)));
  }
  const auto& object = value.get_object();
  std::string id(string_member(object, "id"));
  return {std::move(id),
          {model::StorePath::parse(string_member(object, "outPath")), signatures_of(object)}};
}

void OutputsByHash::shape(Shape& shape, std::string_view field, const Dialect&) {
  shape.add(StepKind::Repeat, field, [&] {
    shape.add(StepKind::String, field);
    shape.add(StepKind::String, field);
  });
}

void OutputsByHash::read_outputs(Decoder& decoder, Outputs& outputs, OutputHashes& keys) {
  const std::size_t count = decoder.count();
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view id = decoder.string();
    OutputKey key = parse_output_key(id);
    auto realisation = parse_realisation(decoder.string());
    if (realisation.id != id) {
      reject(fmt::format("a realisation under '{}' has another id", id));
    }
    keys.emplace(key.output, key.hash);
    add_output(outputs, std::move(key.output), std::move(realisation.realisation));
  }
}

void OutputsByHash::write_outputs(Encoder& encoder,
                                  const Outputs& outputs,
                                  const OutputHashes& keys) {
  std::map<std::string, const model::Realisation*> sorted;
  for (const auto& [name, realisation] : outputs) {
    const auto key = keys.find(name);
    const Hash hash = key == keys.end() ? Hash() : key->second;
    sorted.emplace(print_output_key({hash, name}), &realisation);
  }
  encoder.word(sorted.size());
  for (const auto& [id, realisation] : sorted) {
    encoder.string(id);
    encoder.string(print_realisation(id, *realisation));
  }
}

void OutputsByName::shape(Shape& shape, std::string_view field, const Dialect& dialect) {
  shape.add(StepKind::Repeat, field, [&] {
    shape.add(StepKind::String, field);
    shape.add(StepKind::String, field);
    Texts::shape(shape, field, dialect);
  });
}

void OutputsByName::read_outputs(Decoder& decoder, Outputs& outputs) {
  const std::size_t count = decoder.count();
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view name = decoder.string();
    if (!model::valid_output_name(name)) {
      reject(fmt::format("output {} has no valid name", i));
    }
    model::Realisation realisation{decoder.path(), {}};
    Texts::read(decoder, realisation.signatures);
    add_output(outputs, std::string(name), std::move(realisation));
  }
}

void OutputsByName::write_outputs(Encoder& encoder, const Outputs& outputs) {
  encoder.word(outputs.size());
  for (const auto& [name, realisation] : outputs) {
    encoder.string(name);
    encoder.path(realisation.path);
    Texts::write(encoder, realisation.signatures);
  }
}

} // namespace nixbuild::protocol::wire
