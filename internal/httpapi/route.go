package httpapi

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

type operation func(*handler, *exchange) (answer, error)

// The patterns of the paths there are.
const (
	collection = "/bastions"
	item       = "/bastions/{id}"
)

// operations are all there are, by path and method. http.ServeMux would add HEAD
// to GET and redirect unclean paths; here a path is right or unknown.
var operations = map[string]map[string]operation{
	collection: {
		http.MethodGet:    (*handler).list,
		http.MethodPost:   (*handler).create,
		http.MethodDelete: (*handler).closeAll,
	},
	item: {
		http.MethodGet:    (*handler).get,
		http.MethodPatch:  (*handler).extend,
		http.MethodDelete: (*handler).close,
	},
}

// route finds the operation that a request asks for.
func route(x *exchange) (operation, error) {
	x.route = pattern(x.URL.Path)
	byMethod, ok := operations[x.route]
	if !ok {
		return nil, bastion.Errorf(CodePathNotFound, "There is nothing at this path. Bastions are at %s and %s.", collection, item)
	}
	run, ok := byMethod[x.Method]
	if !ok {
		allowed := strings.Join(slices.Sorted(maps.Keys(byMethod)), ", ")
		x.header.Set("Allow", allowed)
		return nil, bastion.Errorf(CodeMethodNotAllowed, "This method does nothing here. At %s there are %s.", x.route, allowed)
	}
	return run, nil
}

// pattern is the pattern that a path fits, or empty.
func pattern(path string) string {
	if path == collection {
		return collection
	}
	if id, ok := strings.CutPrefix(path, collection+"/"); ok && id != "" && !strings.Contains(id, "/") {
		return item
	}
	return ""
}

// bastionID is the id in the path of an item.
func (x *exchange) bastionID() (string, error) {
	id := strings.TrimPrefix(x.URL.Path, collection+"/")
	if !bastion.ValidID(id) {
		return "", bastion.NotFoundError(id)
	}
	return id, nil
}
