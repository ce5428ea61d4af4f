"""A model leaves the house: conversion, export, card, push."""
