#pragma once

#include "protocol/coder.hpp"
#include "protocol/skim.hpp"

#include <nixbuild/protocol/wire.hpp>

#include <functional>
#include <string_view>
#include <tuple>
#include <utility>

/// Messages as tables (decision D4). A layout is a type with
///
///     static constexpr auto fields = std::tuple{field<Codec>("name", &T::member, since, until),
///     …};
///
/// in wire order; shape, decoder, encoder and documentation derive from it. A codec is a type with
///
///     static constexpr std::string_view kind;                         // for the documentation
///     static void shape(Shape&, std::string_view field, const Dialect&); // words and strings
///     static void read(Decoder&, Value&); static void write(Encoder&, const Value&);
namespace nixbuild::protocol::wire {

inline constexpr Version kFirst{0, 0};
inline constexpr Version kForever{255, 255};

template <class Codec, class Access>
struct Field {
  using CodecType = Codec;

  std::string_view name;
  Access access; ///< owner → member, through std::invoke
  Version since;
  Version until;                     ///< the last version that has it
  FeatureBits with = kNoFeatures;    ///< there only when the peers have these
  FeatureBits without = kNoFeatures; ///< there only when they have none of these

  [[nodiscard]] constexpr Field when(FeatureBits features) const noexcept {
    Field out = *this;
    out.with = features;
    return out;
  }

  [[nodiscard]] constexpr Field unless(FeatureBits features) const noexcept {
    Field out = *this;
    out.without = features;
    return out;
  }

  [[nodiscard]] constexpr bool present(const Dialect& dialect) const noexcept {
    return since <= dialect.version && dialect.version <= until &&
           (dialect.features & with) == with && (dialect.features & without) == 0;
  }
};

template <class Codec, class Access>
constexpr Field<Codec, Access>
field(std::string_view name, Access access, Version since = kFirst, Version until = kForever) {
  return {name, access, since, until, kNoFeatures, kNoFeatures};
}

/// A member of a member.
template <class Outer, class Inner>
struct Through {
  Outer outer;
  Inner inner;

  constexpr decltype(auto) operator()(auto& owner) const {
    return std::invoke(inner, std::invoke(outer, owner));
  }
};

template <class Outer, class Inner>
constexpr Through<Outer, Inner> through(Outer outer, Inner inner) {
  return {outer, inner};
}

/// A field that is a member of the owner's member `outer`.
template <class Codec, class Outer, class Inner>
constexpr auto field_of(std::string_view name,
                        Outer outer,
                        Inner inner,
                        Version since = kFirst,
                        Version until = kForever) {
  return field<Codec>(name, through(outer, inner), since, until);
}

/// The owner itself: for what is not one member.
struct Whole {
  constexpr decltype(auto) operator()(auto& owner) const { return (owner); }
};

/// Calls `visit` for each field of the layout that the dialect has, in wire order.
template <class Layout, class Visit>
void for_each_field(const Dialect& dialect, Visit visit) {
  const auto one = [&](const auto& entry) {
    if (entry.present(dialect)) {
      visit(entry);
    }
  };
  std::apply([&](const auto&... entries) { (one(entries), ...); }, Layout::fields);
}

template <class Layout>
void shape_fields(Shape& shape, const Dialect& dialect) {
  for_each_field<Layout>(dialect, [&]<class Entry>(const Entry& entry) {
    Entry::CodecType::shape(shape, entry.name, dialect);
  });
}

template <class Layout, class Owner>
void read_fields(Decoder& decoder, Owner& out) {
  for_each_field<Layout>(decoder.dialect(), [&]<class Entry>(const Entry& entry) {
    decoder.enter(entry.name);
    Entry::CodecType::read(decoder, std::invoke(entry.access, out));
  });
}

template <class Layout, class Owner>
void write_fields(Encoder& encoder, const Owner& value) {
  for_each_field<Layout>(encoder.dialect(), [&]<class Entry>(const Entry& entry) {
    Entry::CodecType::write(encoder, std::invoke(entry.access, value));
  });
}

/// A member that has a layout of its own.
template <class Layout>
struct Group {
  static constexpr std::string_view kind = Layout::kName;

  static void shape(Shape& shape, std::string_view, const Dialect& dialect) {
    shape_fields<Layout>(shape, dialect);
  }

  static void read(Decoder& decoder, auto& out) { read_fields<Layout>(decoder, out); }

  static void write(Encoder& encoder, const auto& value) { write_fields<Layout>(encoder, value); }
};

} // namespace nixbuild::protocol::wire
