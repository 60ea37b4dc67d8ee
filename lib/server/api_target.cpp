#include "api_target.hpp"

#include "admin_text.hpp"
#include "api_time.hpp"

#include <nixbuild/base/error.hpp>

#include <boost/url/parse.hpp>
#include <boost/url/url_view.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace nixbuild::server {

namespace {

constexpr std::size_t kShownBytes = 64;

std::string shown(std::string_view text) {
  return printable(text.substr(0, kShownBytes));
}

} // namespace

void throw_query(std::string_view name, std::string_view wanted) {
  throw Error(Reaction::Reject, "http.query", fmt::format("'{}' must be {}", shown(name), wanted));
}

void Query::add(std::string name, std::string value) {
  for (const auto& [known, ignored] : parameters_) {
    if (known == name) {
      throw Error(Reaction::Reject,
                  "http.query",
                  fmt::format("the parameter '{}' stands there twice", shown(name)));
    }
  }
  if (parameters_.size() >= kQueryParameters) {
    throw Error(Reaction::Reject,
                "http.query",
                fmt::format("there are more than {} parameters", kQueryParameters));
  }
  parameters_.emplace_back(std::move(name), std::move(value));
}

std::optional<std::string> Query::take(std::string_view name) {
  const auto found = std::find_if(parameters_.begin(), parameters_.end(), [&](const auto& entry) {
    return entry.first == name;
  });
  if (found == parameters_.end()) {
    return std::nullopt;
  }
  auto value = std::move(found->second);
  parameters_.erase(found);
  return value;
}

std::optional<std::uint64_t>
Query::take_number(std::string_view name, std::uint64_t least, std::uint64_t most) {
  const auto text = take(name);
  if (!text) {
    return std::nullopt;
  }
  std::uint64_t number = 0;
  const auto* last = text->data() + text->size();
  const auto [end, error] = std::from_chars(text->data(), last, number);
  if (error != std::errc() || end != last || number < least || number > most) {
    throw_query(name, fmt::format("a whole number from {} to {}", least, most));
  }
  return number;
}

bool Query::take_flag(std::string_view name) {
  const auto text = take(name);
  if (text && *text != "0" && *text != "1") {
    throw_query(name, "0 or 1");
  }
  return text == "1";
}

std::optional<std::int64_t> Query::take_time(std::string_view name) {
  const auto text = take(name);
  if (!text) {
    return std::nullopt;
  }
  const auto time = parse_time_us(*text);
  if (!time) {
    throw_query(name, "a time: 2026-01-31, 2026-01-31T12:00:00Z, or seconds since 1970");
  }
  return time;
}

void Query::expect_empty() const {
  if (!parameters_.empty()) {
    throw Error(Reaction::Reject,
                "http.query",
                fmt::format("there is no parameter '{}' here", shown(parameters_.front().first)));
  }
}

Target parse_target(std::string_view text) {
  if (text.size() > kTargetBytes) {
    throw Error(Reaction::Reject,
                "http.target",
                fmt::format("the target of {} bytes exceeds {}", text.size(), kTargetBytes));
  }
  const auto url = boost::urls::parse_origin_form({text.data(), text.size()});
  if (!url) {
    throw Error(Reaction::Reject, "http.target", "the target must be a path with a query");
  }
  Target target;
  for (const auto& segment : url->segments()) {
    if (target.segments.size() >= kTargetSegments) {
      throw Error(Reaction::Reject,
                  "http.target",
                  fmt::format("the path has more than {} parts", kTargetSegments));
    }
    target.segments.emplace_back(segment);
  }
  for (const auto& parameter : url->params()) {
    target.query.add(std::string(parameter.key), std::string(parameter.value));
  }
  return target;
}

std::vector<std::string_view> split_list(std::string_view text) {
  std::vector<std::string_view> words;
  while (!text.empty()) {
    const auto word = text.substr(0, text.find(','));
    if (!word.empty()) {
      words.push_back(word);
    }
    text.remove_prefix(std::min(word.size() + 1, text.size()));
  }
  return words;
}

} // namespace nixbuild::server
