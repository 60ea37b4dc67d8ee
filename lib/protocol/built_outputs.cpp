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

struct Key {
  Hash hash;
  std::string output;
};

Key parse_key(std::string_view text) {
  const auto mark = text.find('!');
  if (!text.starts_with("sha256:") || mark != 7 + 64 ||
      !model::valid_output_name(text.substr(mark + 1))) {
    reject(fmt::format("'{}' does not have the form sha256:<hex>!<output>",
                       text.substr(0, kShownBytes)));
  }
  return {model::parse_hash(text.substr(0, mark)), std::string(text.substr(mark + 1))};
}

std::string print_key(const KeyedResult& value, const std::string& output) {
  const auto key = value.keys.find(output);
  const Hash hash = key == value.keys.end() ? Hash() : key->second;
  return fmt::format("sha256:{}!{}", model::hash_hex(hash), output);
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

std::string_view string_member(const boost::json::object& object, std::string_view name) {
  const auto* value = object.if_contains(name);
  if (value == nullptr || !value->is_string()) {
    reject(fmt::format("a realisation has no text '{}'", name));
  }
  return value->get_string();
}

model::Realisation parse_realisation(std::string_view text, std::string_view id) {
  boost::system::error_code error;
  boost::json::parse_options options;
  options.max_depth = 8;
  const auto value =
      boost::json::parse(boost::json::string_view(text.data(), text.size()), error, {}, options);
  if (error || !value.is_object()) {
    reject(fmt::format("'{}' is no JSON object", text.substr(0, kShownBytes)));
  }
  const auto& object = value.get_object();
  if (string_member(object, "id") != id) {
    reject(fmt::format("a realisation under '{}' has another id", id));
  }
  model::Realisation out{model::StorePath::parse(string_member(object, "outPath")), {}};
  if (const auto* signatures = object.if_contains("signatures")) {
    if (!signatures->is_array()) {
      reject("the signatures of a realisation are no list");
    }
    for (const auto& signature : signatures->get_array()) {
      if (!signature.is_string()) {
        reject("a signature of a realisation is no text");
      }
      out.signatures.emplace_back(signature.get_string());
    }
  }
  return out;
}

void add_output(KeyedResult& out, std::string name, model::Realisation realisation) {
  if (!out.result.outputs.try_emplace(std::move(name), std::move(realisation)).second) {
    reject("an output stands twice in a build result");
  }
}

} // namespace

void OutputsByHash::shape(Shape& shape, std::string_view field, Version) {
  shape.add(StepKind::Repeat, field, [&] {
    shape.add(StepKind::String, field);
    shape.add(StepKind::String, field);
  });
}

void OutputsByHash::read(Decoder& decoder, KeyedResult& out) {
  const std::size_t count = decoder.count();
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view id = decoder.string();
    Key key = parse_key(id);
    auto realisation = parse_realisation(decoder.string(), id);
    out.keys.emplace(key.output, key.hash);
    add_output(out, std::move(key.output), std::move(realisation));
  }
}

void OutputsByHash::write(Encoder& encoder, const KeyedResult& value) {
  std::map<std::string, const model::Realisation*> sorted;
  for (const auto& [name, realisation] : value.result.outputs) {
    sorted.emplace(print_key(value, name), &realisation);
  }
  encoder.word(sorted.size());
  for (const auto& [id, realisation] : sorted) {
    encoder.string(id);
    encoder.string(print_realisation(id, *realisation));
  }
}

void OutputsByName::shape(Shape& shape, std::string_view field, Version version) {
  shape.add(StepKind::Repeat, field, [&] {
    shape.add(StepKind::String, field);
    shape.add(StepKind::String, field);
    Texts::shape(shape, field, version);
  });
}

void OutputsByName::read(Decoder& decoder, KeyedResult& out) {
  const std::size_t count = decoder.count();
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view name = decoder.string();
    if (!model::valid_output_name(name)) {
      reject(fmt::format("output {} has no valid name", i));
    }
    model::Realisation realisation{decoder.path(), {}};
    Texts::read(decoder, realisation.signatures);
    add_output(out, std::string(name), std::move(realisation));
  }
}

void OutputsByName::write(Encoder& encoder, const KeyedResult& value) {
  encoder.word(value.result.outputs.size());
  for (const auto& [name, realisation] : value.result.outputs) {
    encoder.string(name);
    encoder.path(realisation.path);
    Texts::write(encoder, realisation.signatures);
  }
}

} // namespace nixbuild::protocol::wire
