#pragma once

#include "protocol/coder.hpp"
#include "protocol/skim.hpp"

#include <nixbuild/model/hash_text.hpp>
#include <nixbuild/model/store_path.hpp>

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// How the parts of Nix's protocols stand on the wire. Source: protocol facts 1.
namespace nixbuild::protocol::wire {

struct WordShape {
  static void shape(Shape& shape, std::string_view field, const Dialect&) {
    shape.add(StepKind::Word, field);
  }
};

struct StringShape {
  static void shape(Shape& shape, std::string_view field, const Dialect&) {
    shape.add(StepKind::String, field);
  }
};

struct ListOfStringsShape {
  static void shape(Shape& shape, std::string_view field, const Dialect&) {
    shape.add(StepKind::Repeat, field, [&] { shape.add(StepKind::String, field); });
  }
};

/// 0 is false, anything else true; above 32 bits an error.
struct Flag : WordShape {
  static constexpr std::string_view kind = "flag";

  static void read(Decoder& decoder, bool& out) { out = decoder.small() != 0; }

  static void write(Encoder& encoder, bool value) { encoder.word(value ? 1 : 0); }
};

struct Small : WordShape {
  static constexpr std::string_view kind = "32-bit number";

  static void read(Decoder& decoder, std::uint32_t& out) { out = decoder.small(); }

  static void write(Encoder& encoder, std::uint32_t value) { encoder.word(value); }
};

struct Seconds : WordShape {
  static constexpr std::string_view kind = "seconds (32 bits)";

  static void read(Decoder& decoder, std::chrono::seconds& out) {
    out = std::chrono::seconds(decoder.small());
  }

  static void write(Encoder& encoder, std::chrono::seconds value) {
    constexpr std::chrono::seconds::rep kMost = 0xffffffff;
    encoder.word(
        static_cast<std::uint64_t>(std::clamp<std::chrono::seconds::rep>(value.count(), 0, kMost)));
  }
};

struct Number : WordShape {
  static constexpr std::string_view kind = "number";

  static void read(Decoder& decoder, std::uint64_t& out) { out = decoder.word(); }

  static void write(Encoder& encoder, std::uint64_t value) { encoder.word(value); }
};

struct Time : WordShape {
  static constexpr std::string_view kind = "seconds since 1970";

  static void read(Decoder& decoder, std::int64_t& out) {
    out = static_cast<std::int64_t>(decoder.word());
  }

  static void write(Encoder& encoder, std::int64_t value) {
    encoder.word(static_cast<std::uint64_t>(value));
  }
};

/// A word without meaning.
struct Ignored : WordShape {
  static constexpr std::string_view kind = "ignored";

  static void read(Decoder& decoder, auto&) { static_cast<void>(decoder.word()); }

  static void write(Encoder& encoder, const auto&) { encoder.word(0); }
};

/// An optional member that the version decides on: present whenever the field is. A sender that
/// does not know it says zero.
template <class Codec>
struct Known {
  static constexpr std::string_view kind = Codec::kind;

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect) {
    Codec::shape(shape, field, dialect);
  }

  template <class Value>
  static void read(Decoder& decoder, std::optional<Value>& out) {
    Codec::read(decoder, out.emplace());
  }

  template <class Value>
  static void write(Encoder& encoder, const std::optional<Value>& value) {
    Codec::write(encoder, value.value_or(Value()));
  }
};

/// Any bytes.
struct String : StringShape {
  static constexpr std::string_view kind = "string";

  static void read(Decoder& decoder, std::string& out) { out = decoder.string(); }

  static void write(Encoder& encoder, std::string_view value) { encoder.string(value); }
};

/// Without zero bytes.
struct Text : StringShape {
  static constexpr std::string_view kind = "string";

  static void read(Decoder& decoder, std::string& out) { out = decoder.text(); }

  static void write(Encoder& encoder, std::string_view value) { encoder.string(value); }
};

struct Texts : ListOfStringsShape {
  static constexpr std::string_view kind = "list of strings";

  static void read(Decoder& decoder, std::vector<std::string>& out) {
    const std::size_t count = decoder.count();
    out.clear();
    out.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      out.emplace_back(decoder.text());
    }
  }

  static void write(Encoder& encoder, const std::vector<std::string>& value) {
    encoder.word(value.size());
    for (const auto& text : value) {
      encoder.string(text);
    }
  }
};

struct Path : StringShape {
  static constexpr std::string_view kind = "path";

  static void read(Decoder& decoder, model::StorePath& out) { out = decoder.path(); }

  static void write(Encoder& encoder, const model::StorePath& value) { encoder.path(value); }
};

/// Empty: none.
struct OptionalPath : StringShape {
  static constexpr std::string_view kind = "path or empty string";

  static void read(Decoder& decoder, std::optional<model::StorePath>& out) {
    const std::string_view text = decoder.string();
    out.reset();
    if (!text.empty()) {
      out = decoder.dir().parse(text);
    }
  }

  static void write(Encoder& encoder, const std::optional<model::StorePath>& value) {
    if (value) {
      encoder.path(*value);
    } else {
      encoder.string({});
    }
  }
};

/// In the order of the sender.
struct PathList : ListOfStringsShape {
  static constexpr std::string_view kind = "list of paths";

  static void read(Decoder& decoder, model::StorePaths& out) {
    const std::size_t count = decoder.count();
    out.clear();
    out.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      out.push_back(decoder.path());
    }
  }

  static void write(Encoder& encoder, const model::StorePaths& value) {
    encoder.word(value.size());
    for (const auto& path : value) {
      encoder.path(path);
    }
  }
};

/// Sorted and unique in memory, whatever the sender's order.
struct PathSet : PathList {
  static constexpr std::string_view kind = "set of paths";

  static void read(Decoder& decoder, model::StorePaths& out) {
    PathList::read(decoder, out);
    model::sort_unique(out);
  }
};

/// SHA-256 in any of Nix's forms; written as bare hexadecimal.
struct HexHash : StringShape {
  static constexpr std::string_view kind = "SHA-256, hexadecimal";

  static void read(Decoder& decoder, Hash& out) {
    out = model::parse_hash(decoder.string(), HashAlgorithm::Sha256);
  }

  static void write(Encoder& encoder, const Hash& value) { encoder.string(model::hash_hex(value)); }
};

/// SHA-256 in any of Nix's forms; written as `sha256:<nix32>`.
struct Nix32Hash : HexHash {
  static constexpr std::string_view kind = "SHA-256, `sha256:<nix32>`";

  static void write(Encoder& encoder, const Hash& value) {
    encoder.string(model::hash_nix32(value));
  }
};

} // namespace nixbuild::protocol::wire
