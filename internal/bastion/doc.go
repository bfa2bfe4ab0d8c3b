// Package bastion is the domain: what a bastion is, what its record says, and
// the one function that brings the cloud to what the record says.
//
// A request never does anything to the cloud by itself. It writes intent (open
// or closed, the source, the keys, the deadline) into a [Record] and then calls
// [Service.Converge], which observes the cloud, asks the pure function [Decide]
// what is missing, writes down what it is about to do, does it, and starts
// over until nothing is left that its caller may do. Create, extend, close, the
// reaper and the observer are thin callers of that one loop. A crash at any
// point leaves a record that is due, and the reaper finishes or undoes it.
//
// The package imports the standard library only. The cloud is reached through
// the interfaces in ports.go; their comments are the contract that every
// adapter passes the same conformance suite for.
package bastion
