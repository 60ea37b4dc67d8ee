#pragma once

#include <nixbuild/protocol/wire.hpp>

#include <cstdint>
#include <string_view>

namespace nixbuild::protocol::wire {

/// A set of features that change fields. Only the worker protocol has any.
using FeatureBits = std::uint32_t;

inline constexpr FeatureBits kNoFeatures = 0;
/// `realisation-with-path-not-hash`
inline constexpr FeatureBits kRealisationsByPath = 1U << 0;
/// `delete-dead-specific-referrers`
inline constexpr FeatureBits kGarbageScope = 1U << 1;

/// What two sides agreed on, as far as it decides on fields.
struct Dialect {
  /// A version alone is a dialect, too: the serve protocol has nothing else.
  // NOLINTNEXTLINE(google-explicit-constructor)
  constexpr Dialect(Version agreed, FeatureBits agreed_features = kNoFeatures) noexcept
      : version(agreed), features(agreed_features) {}

  Version version;
  FeatureBits features;
};

} // namespace nixbuild::protocol::wire
