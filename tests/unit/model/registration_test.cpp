#include "unit/model/error_code.hpp"

#include <nixbuild/model/registration.hpp>

#include <catch2/catch.hpp>

#include <fstream>
#include <iterator>

using namespace nixbuild;
using namespace nixbuild::model;
using nixbuild::test::error_code_of;

namespace {

const StoreDir kDir;

std::string recorded() {
  std::ifstream in(TEST_DATA_DIR "/model/registration", std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

} // namespace

TEST_CASE("registration text: what Nix dumps reads and prints byte for byte", "[model][golden]") {
  const auto text = recorded();
  const auto infos = parse_registration(kDir, text);
  REQUIRE(infos.size() == 9);
  CHECK(print_registration(kDir, infos, RegistrationForm::Database) == text);
}

TEST_CASE("registration text: derivers cross in the database form only", "[model]") {
  auto infos = parse_registration(kDir, recorded());
  infos.erase(infos.begin() + 1, infos.end());
  infos[0].deriver = infos[0].path;
  infos[0].references = {infos[0].path};
  const auto path = kDir.print(infos[0].path);
  const auto text = print_registration(kDir, infos, RegistrationForm::Database);
  CHECK(parse_registration(kDir, text) == infos);
  CHECK(print_registration(kDir, infos, RegistrationForm::ReferencesGraph) ==
        path + "\n\n1\n" + path + "\n");
}

TEST_CASE("registration text: no beginning of a text is whole", "[model][reject]") {
  const auto text = print_registration(
      kDir, std::vector{parse_registration(kDir, recorded()).front()}, RegistrationForm::Database);
  for (std::size_t size = 1; size < text.size(); ++size) {
    CHECK_FALSE(
        error_code_of([&] { return parse_registration(kDir, text.substr(0, size)); }).empty());
  }
  auto bad = text;
  bad.back() = 'x';
  CHECK_FALSE(error_code_of([&] { return parse_registration(kDir, bad); }).empty());
  const auto head = text.substr(0, text.find('\n') + 1);
  const auto hash = std::string(64, '0') + "\n";
  CHECK(error_code_of([&] { return parse_registration(kDir, head + hash + "-1\n"); }) ==
        "registration.syntax");
  CHECK(error_code_of([&] { return parse_registration(kDir, head + hash + "1\n\n9"); }) ==
        "registration.syntax");
}
