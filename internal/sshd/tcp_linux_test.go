package sshd

import (
	"io"
	"net"
	"testing"
)

func TestUnread(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if unread(conn) {
		t.Error("data is unread that was never sent")
	}
	if _, err := io.WriteString(client, "ab"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, false} { // after the first byte, and after the second
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if got := unread(conn); got != want {
			t.Errorf("unread data %t, want %t", got, want)
		}
	}
}
