#pragma once

// Stands in for the one header of Catch2 2 (Debian 12) where there is only Catch2 3 (Debian 13), so
// that tests are written in one way: the way of Catch2 2, as far as they use it.
#include <catch2/catch_approx.hpp>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators_all.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <string>

namespace Catch {

using Matchers::EndsWith;
using Matchers::StartsWith;

/// Looks for a part of a text; the `Matchers::Contains` of Catch2 3 looks for elements of a range.
inline auto Contains(const std::string& part) {
  return Matchers::ContainsSubstring(part);
}

} // namespace Catch
