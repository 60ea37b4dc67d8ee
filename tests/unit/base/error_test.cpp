#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/error.hpp>

#include <catch2/catch.hpp>
#include <fcntl.h>

#include <cerrno>
#include <string>

using namespace nixbuild;

TEST_CASE("error: context frames stand before the message, outermost first", "[base]") {
  Error error(Reaction::Reject, "nar.syntax", "bad token");
  error.add_context("entry bin").add_context("importing x");
  CHECK(std::string(error.what()) == "importing x: entry bin: bad token");
  CHECK(error.message() == "bad token");
  CHECK(error.code() == "nar.syntax");
}

TEST_CASE("error: exit codes follow the command-line contract", "[base]") {
  CHECK(exit_code_of(Reaction::Reject) == 1);
  CHECK(exit_code_of(Reaction::Denied) == 3);
  CHECK(exit_code_of(Reaction::NotFound) == 4);
  CHECK(exit_code_of(Reaction::Busy) == 5);
  CHECK(exit_code_of(Reaction::Timeout) == 5);
  CHECK(exit_code_of(Reaction::Internal) == 70);
}

TEST_CASE("error: errno decides the reaction", "[base]") {
  try {
    throw_system_error("test.code", "opening x", ENOSPC);
  } catch (const Error& error) {
    CHECK(error.reaction() == Reaction::Busy);
    CHECK(std::string(error.what()).find("opening x: ") == 0);
  }
}

TEST_CASE("descriptor: closes once, moves, and duplicates close-on-exec", "[base]") {
  UniqueFd first(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  REQUIRE(first);
  const int number = first.get();
  UniqueFd second = std::move(first);
  CHECK_FALSE(first);
  const auto copy = second.duplicate();
  CHECK((::fcntl(copy.get(), F_GETFD) & FD_CLOEXEC) != 0);
  second.reset();
  CHECK(::fcntl(number, F_GETFD) == -1);
}
