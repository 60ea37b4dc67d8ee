#include "netrc.hpp"

#include <sstream>

namespace nixbuild::builtin {

namespace {

struct Entry {
  std::string login;
  std::string password;
};

} // namespace

std::optional<std::string> credentials_for(std::string_view host, const std::string& netrc) {
  std::istringstream words(netrc);
  std::string word;
  std::string value;
  Entry entry;
  bool ours = false;
  while (words >> word) {
    if (word == "machine" || word == "default") {
      if (ours) {
        break;
      }
      ours = word == "default" || ((words >> value) && value == host);
    } else if (word == "login" && (words >> value)) {
      entry.login = ours ? value : entry.login;
    } else if (word == "password" && (words >> value)) {
      entry.password = ours ? value : entry.password;
    } else if (word == "macdef") {
      // Its body ends with an empty line.
      while (std::getline(words, value) && !value.empty()) {
      }
    }
  }
  if (!ours) {
    return std::nullopt;
  }
  return entry.login + ":" + entry.password;
}

} // namespace nixbuild::builtin
