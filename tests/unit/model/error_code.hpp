#pragma once

#include <nixbuild/base/error.hpp>

#include <string>

namespace nixbuild::test {

/// Code of the Error that `call` throws; empty when it throws none.
template <class Call>
std::string error_code_of(Call&& call) {
  try {
    static_cast<void>(call());
  } catch (const Error& error) {
    return error.code();
  }
  return {};
}

} // namespace nixbuild::test
