#include "unit/model/error_code.hpp"

#include <nixbuild/model/registration.hpp>

#include <catch2/catch.hpp>

#include <fstream>
#include <iterator>

using namespace nixbuild;
using namespace nixbuild::model;
using nixbuild::test::error_code_of;

namespace {

const StoreDir kRegistrationDir;

std::string registrations() {
  std::ifstream in(TEST_DATA_DIR "/model/registration", std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

} // namespace

TEST_CASE("registration text: what Nix dumps reads and prints byte for byte", "[model][golden]") {
  const auto text = registrations();
  const auto infos = parse_registration(kRegistrationDir, text);
  REQUIRE(infos.size() == 9);
  CHECK(print_registration(kRegistrationDir, infos, RegistrationForm::Database) == text);
}

TEST_CASE("registration text: derivers cross in the database form only", "[model]") {
  auto infos = parse_registration(kRegistrationDir, registrations());
  infos.erase(infos.begin() + 1, infos.end());
  infos[0].deriver = infos[0].path;
  infos[0].references = {infos[0].path};
  const auto path = kRegistrationDir.print(infos[0].path);
  const auto text = print_registration(kRegistrationDir, infos, RegistrationForm::Database);
  CHECK(parse_registration(kRegistrationDir, text) == infos);
  CHECK(print_registration(kRegistrationDir, infos, RegistrationForm::ReferencesGraph) ==
        path + "\n\n1\n" + path + "\n");
}

TEST_CASE("registration text: no beginning of a text is whole", "[model][reject]") {
  const auto text =
      print_registration(kRegistrationDir,
                         std::vector{parse_registration(kRegistrationDir, registrations()).front()},
                         RegistrationForm::Database);
  for (std::size_t size = 1; size < text.size(); ++size) {
    CHECK_FALSE(error_code_of([&] {
                  return parse_registration(kRegistrationDir, text.substr(0, size));
                }).empty());
  }
  auto bad = text;
  bad.back() = 'x';
  CHECK_FALSE(error_code_of([&] { return parse_registration(kRegistrationDir, bad); }).empty());
  const auto head = text.substr(0, text.find('\n') + 1);
  const auto hash = std::string(64, '0') + "\n";
  CHECK(error_code_of([&] { return parse_registration(kRegistrationDir, head + hash + "-1\n"); }) ==
        "registration.syntax");
  CHECK(error_code_of([&] {
          return parse_registration(kRegistrationDir, head + hash + "1\n\n9");
        }) == "registration.syntax");
}
