#pragma once

#include <nixbuild/base/error.hpp>

#include <cstddef>
#include <exception>
#include <optional>
#include <utility>
#include <vector>

/// Questions that a client sends without waiting for the answers, in either protocol. They change
/// nothing, so none has to wait for another one; everything else is served by itself, in its turn.
namespace nixbuild::server {

/// Questions of one session that are looked up at the same time.
inline constexpr std::size_t kQuestionsAtOnce = 16;

/// Questions about so few paths are answered on the session's own strand: the database answers in
/// microseconds, and a visit to the blocking pool costs more.
inline constexpr std::size_t kAnswerAtOnce = 16;

/// A question and what became of it.
template <class Request, class Reply>
struct AskedAhead {
  Request question;
  std::optional<Reply> reply{};
  std::exception_ptr failure{};

  [[nodiscard]] bool answered() const noexcept { return reply || failure; }
};

/// `first`, and the questions that `reader` has at hand behind it. What stands behind those, if it
/// is at hand too, is left in `next`.
template <class Reader, class Request, class IsQuestion>
std::vector<Request> questions_at_hand(Reader& reader,
                                       Request first,
                                       std::optional<Request>& next,
                                       IsQuestion is_question) {
  std::vector<Request> questions;
  questions.push_back(std::move(first));
  try {
    while (questions.size() < kQuestionsAtOnce && (next = reader.next()) && is_question(*next)) {
      questions.push_back(std::move(*next));
      next.reset();
    }
  } catch (const Error&) {
    // The reader will say it again, once those before have their answers.
  }
  return questions;
}

} // namespace nixbuild::server
