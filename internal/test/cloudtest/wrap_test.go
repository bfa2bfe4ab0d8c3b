package cloudtest_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
)

// TestEveryCallGoesThroughTheHook calls every method of every port, found by
// reflection, on ports that are wrapped twice. Each method must pass its own name to
// the outer hook, and call the method of the same name of the inner ports.
func TestEveryCallGoesThroughTheHook(t *testing.T) {
	sentinel := errors.New("from the inner hook")
	var inner, outer []string
	ports := cloudtest.Wrap(cloudtest.Ports{}, func(_ context.Context, call string, _ func() error) error {
		inner = append(inner, call)
		return sentinel
	})
	ports = cloudtest.Wrap(ports, func(_ context.Context, call string, do func() error) error {
		outer = append(outer, call)
		return do()
	})
	fields := reflect.TypeFor[cloudtest.Ports]()
	for i := range fields.NumField() {
		port := reflect.ValueOf(ports).Field(i)
		for m := range fields.Field(i).Type.NumMethod() {
			name := fields.Field(i).Name + "." + fields.Field(i).Type.Method(m).Name
			inner, outer = nil, nil
			out := port.Method(m).Call(arguments(t, port.Method(m).Type()))
			if err, _ := out[len(out)-1].Interface().(error); !errors.Is(err, sentinel) {
				t.Errorf("%s returns %v, want the hook's error", name, err)
			}
			if want := []string{name}; !slices.Equal(inner, want) || !slices.Equal(outer, want) {
				t.Errorf("%s: the hooks receive %q and %q", name, outer, inner)
			}
		}
	}
}

// arguments returns a context and zero values for the other parameters.
func arguments(t *testing.T, method reflect.Type) []reflect.Value {
	args := []reflect.Value{reflect.ValueOf(t.Context())}
	for i := 1; i < method.NumIn(); i++ {
		if !method.IsVariadic() || i < method.NumIn()-1 {
			args = append(args, reflect.Zero(method.In(i)))
		}
	}
	return args
}

// TestPortsAreComplete fails if bastion.Service has a port that Ports lacks.
func TestPortsAreComplete(t *testing.T) {
	service, ports := reflect.TypeFor[bastion.Service](), reflect.TypeFor[cloudtest.Ports]()
	found := 0
	for i := range service.NumField() {
		field := service.Field(i)
		if field.Type.Kind() != reflect.Interface || field.Type.PkgPath() != service.PkgPath() {
			continue
		}
		found++
		if port, ok := ports.FieldByName(field.Name); !ok || port.Type != field.Type {
			t.Errorf("Ports has no %s of type %s", field.Name, field.Type)
		}
	}
	if found != ports.NumField() {
		t.Errorf("the service has %d ports, Ports %d", found, ports.NumField())
	}
}
