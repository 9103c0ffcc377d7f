package main

import "testing"

func TestTasksAreReadFromAReply(t *testing.T) {
	reply := []byte(`{"id": "a\"]}", "status":"completed", "tasks" : [
		{"id":"one","payload":{"n": 7, "s":"}],\\"},"tags":{},"attempt":1,"lease_token":"t1","parents":[{"id":"no"}]},
		{"lease_token":"t2","payload":[1,[2,{"id":"no"}]],"id":"two","error":null}
	], "x": [], "y": {}}`)
	tasks, refused, err := tasksOf(reply, nil)
	if err != nil || refused != 0 || len(tasks) != 2 {
		t.Fatalf("%d tasks, %d refused, %v", len(tasks), refused, err)
	}
	if string(tasks[0].id) != "one" || string(tasks[0].token) != "t1" || number(tasks[0].payload, "n") != 7 {
		t.Errorf("first task: %s %s %s", tasks[0].id, tasks[0].token, tasks[0].payload)
	}
	if string(tasks[1].id) != "two" || string(tasks[1].token) != "t2" || string(tasks[1].payload) != `[1,[2,{"id":"no"}]]` {
		t.Errorf("second task: %s %s %s", tasks[1].id, tasks[1].token, tasks[1].payload)
	}
}

func TestRefusedItemsOfABatchAreCounted(t *testing.T) {
	reply := []byte(`{"outcomes":[{"id":"a","status":"completed"},{"id":"b","error":{"code":"lease_lost"}}],"tasks":[]}`)
	tasks, refused, err := tasksOf(reply, nil)
	if err != nil || refused != 1 || len(tasks) != 0 {
		t.Fatalf("%d tasks, %d refused, %v", len(tasks), refused, err)
	}
}

func TestWhatIsNoReplyIsMalformed(t *testing.T) {
	for _, text := range []string{``, `[]`, `{`, `{"tasks":[`, `{"tasks":[{"id":"a"}]}`, `{"tasks":[{}]}`, `{"tasks" [`, `{"a":}`, `{,}`} {
		if _, _, err := tasksOf([]byte(text), nil); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}
