// Package config reads what the operator decided from the environment of a
// function on AWS, and says everything that is wrong with it in one error: a
// function that starts wrong must not start at all, and whoever mends it wants
// to see the whole list.
//
// template.yaml writes these variables; a name of ours that is not known here is
// an error too, as it is a setting that somebody believes in.
package config
