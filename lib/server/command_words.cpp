#include <nixbuild/server/command_words.hpp>

#include <utility>

namespace nixbuild::server {

std::vector<std::string> split_words(std::string_view line) {
  std::vector<std::string> words;
  std::string word;
  bool open = false;
  char quote = 0;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote != 0) {
      if (c == quote) {
        quote = 0;
      } else if (c == '\\' && quote == '"' && i + 1 < line.size()) {
        word.push_back(line[++i]);
      } else {
        word.push_back(c);
      }
    } else if (c == '\'' || c == '"') {
      quote = c;
      open = true;
    } else if (c == '\\' && i + 1 < line.size()) {
      word.push_back(line[++i]);
      open = true;
    } else if (c == ' ' || c == '\t' || c == '\n') {
      if (open || !word.empty()) {
        words.push_back(std::exchange(word, {}));
      }
      open = false;
    } else {
      word.push_back(c);
    }
  }
  if (open || !word.empty()) {
    words.push_back(word);
  }
  return words;
}

} // namespace nixbuild::server
