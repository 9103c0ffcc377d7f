package main

import "bytes"

// A task as a worker needs it: slices of the reply that it came in, as JSON text (strings without their quotes, escapes untouched).
type task struct {
	id      []byte
	token   []byte
	payload []byte
}

// tasksOf appends the members of a reply's top-level `tasks` to into. Replies are walked, not decoded: encoding/json would cost more
// per task than the server spends on it. refused is the number of entries of any other top-level array that carry an `error`.
func tasksOf(reply []byte, into []task) (tasks []task, refused uint64, err error) {
	tasks = into
	err = members(reply, func(name, value []byte) error {
		if len(value) == 0 || value[0] != '[' {
			return nil
		}
		isTasks := string(name) == "tasks"
		return elements(value, func(element []byte) error {
			var t task
			failed := false
			if len(element) > 0 && element[0] == '{' {
				if err := members(element, func(name, value []byte) error {
					switch string(name) {
					case "id":
						t.id = unquote(value)
					case "lease_token":
						t.token = unquote(value)
					case "payload":
						t.payload = value
					case "error":
						failed = string(value) != "null"
					}
					return nil
				}); err != nil {
					return err
				}
			}
			switch {
			case isTasks && (len(t.id) == 0 || len(t.token) == 0):
				return errMalformed
			case isTasks:
				tasks = append(tasks, t)
			case failed:
				refused++
			}
			return nil
		})
	})
	return tasks, refused, err
}

// number returns the whole number that stands as member `name` of a JSON object, or -1.
func number(object []byte, name string) int {
	found := -1
	_ = members(object, func(member, value []byte) error {
		if string(member) == name {
			found = 0
			for _, digit := range value {
				if digit < '0' || digit > '9' {
					found = -1
					return nil
				}
				found = found*10 + int(digit-'0')
			}
		}
		return nil
	})
	return found
}

// members calls visit for each member of the JSON object at the start of text.
func members(text []byte, visit func(name, value []byte) error) error {
	i := skipSpace(text, 0)
	if i >= len(text) || text[i] != '{' {
		return errMalformed
	}
	i = skipSpace(text, i+1)
	for i < len(text) && text[i] != '}' {
		nameEnd := skipValue(text, i)
		colon := skipSpace(text, nameEnd)
		if text[i] != '"' || colon >= len(text) || text[colon] != ':' {
			return errMalformed
		}
		start := skipSpace(text, colon+1)
		end := skipValue(text, start)
		if end <= start {
			return errMalformed
		}
		if err := visit(text[i+1:nameEnd-1], text[start:end]); err != nil {
			return err
		}
		i = skipSpace(text, end)
		if i < len(text) && text[i] == ',' {
			i = skipSpace(text, i+1)
		}
	}
	if i >= len(text) {
		return errMalformed
	}
	return nil
}

// elements calls visit for each element of the JSON array at the start of text.
func elements(text []byte, visit func(element []byte) error) error {
	i := skipSpace(text, 1)
	for i < len(text) && text[i] != ']' {
		end := skipValue(text, i)
		if end <= i {
			return errMalformed
		}
		if err := visit(text[i:end]); err != nil {
			return err
		}
		i = skipSpace(text, end)
		if i < len(text) && text[i] == ',' {
			i = skipSpace(text, i+1)
		}
	}
	if i >= len(text) {
		return errMalformed
	}
	return nil
}

// skipValue returns the index behind the JSON value that begins at i.
func skipValue(text []byte, i int) int {
	depth := 0
	for i < len(text) {
		switch text[i] {
		case '"':
			i = skipString(text, i)
		case '{', '[':
			depth++
			i++
			continue
		case '}', ']':
			if depth == 0 {
				return i
			}
			depth--
			i++
		case ',', ':', ' ', '\n', '\r', '\t':
			if depth == 0 {
				return i
			}
			i++
			continue
		default:
			for i < len(text) && bytes.IndexByte([]byte(",:]} \n\r\t\"{["), text[i]) < 0 {
				i++
			}
		}
		if depth == 0 {
			return i
		}
	}
	return i
}

// skipString returns the index behind the JSON string whose opening quote stands at i.
func skipString(text []byte, i int) int {
	for i++; i < len(text); i++ {
		next := bytes.IndexByte(text[i:], '"')
		if next < 0 {
			return len(text)
		}
		i += next
		backslashes := 0
		for text[i-1-backslashes] == '\\' {
			backslashes++
		}
		if backslashes%2 == 0 {
			return i + 1
		}
	}
	return len(text)
}

func skipSpace(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\n' || text[i] == '\r' || text[i] == '\t') {
		i++
	}
	return i
}

func unquote(value []byte) []byte {
	if len(value) < 2 || value[0] != '"' {
		return nil
	}
	return value[1 : len(value)-1]
}
