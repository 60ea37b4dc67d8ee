#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nixbuild::server {

inline constexpr std::size_t kTargetBytes = 8192;
inline constexpr std::size_t kTargetSegments = 8;
inline constexpr std::size_t kQueryParameters = 32;

/// The parameters behind the `?` of a request. Each is taken once; what is left over is an error,
/// so that a misspelt filter does not silently filter nothing.
class Query {
public:
  Query() = default;

  /// Error `http.query` for a name that stands there twice.
  void add(std::string name, std::string value);

  /// The value, taken out.
  [[nodiscard]] std::optional<std::string> take(std::string_view name);
  /// A whole number from `least` to `most`, taken out. Error `http.query`.
  [[nodiscard]] std::optional<std::uint64_t>
  take_number(std::string_view name, std::uint64_t least, std::uint64_t most);
  /// `0` or `1`, taken out; false when absent. Error `http.query`.
  [[nodiscard]] bool take_flag(std::string_view name);
  /// A time in microseconds since 1970 (see parse_time_us), taken out. Error `http.query`.
  [[nodiscard]] std::optional<std::int64_t> take_time(std::string_view name);

  /// Error `http.query` naming a parameter that nobody took.
  void expect_empty() const;

private:
  std::vector<std::pair<std::string, std::string>> parameters_;
};

struct Target {
  std::vector<std::string> segments; ///< of the path, decoded
  Query query;
};

/// Takes the target of a request line apart. Errors: `http.target` (not in origin form, too long,
/// too many segments), `http.query` (too many parameters, one twice).
[[nodiscard]] Target parse_target(std::string_view text);

/// The words of a list with commas; empty ones are left out.
[[nodiscard]] std::vector<std::string_view> split_list(std::string_view text);

/// Throws `http.query`.
[[noreturn]] void throw_query(std::string_view name, std::string_view wanted);

} // namespace nixbuild::server
