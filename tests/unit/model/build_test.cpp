#include <nixbuild/model/build.hpp>

#include <catch2/catch.hpp>

#include <set>
#include <string>

using namespace nixbuild::model;

TEST_CASE("build status: exactly four numbers count as success", "[model][golden]") {
  const std::set<unsigned> successes{0, 1, 2, 13};
  std::set<std::string> names;
  for (unsigned number = 0; number <= 14; ++number) {
    const auto status = static_cast<BuildStatus>(number);
    CHECK(is_success(status) == successes.contains(number));
    names.emplace(name_of(status));
  }
  CHECK(names.size() == 15);
  CHECK(name_of(BuildStatus::TimedOut) == "TimedOut");
}
